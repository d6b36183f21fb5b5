"""Families of invented birds, the marks that distinguish siblings, and their scenes."""

from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from keras_apinet.errors import APINetError

Colour = tuple[int, int, int]
Point = tuple[float, float]


# What siblings share, in units of half the bird's length (beak to tail: about 2). The
# bird faces right; x points right and y down from the center of its body. `posture` is
# in degrees; sizes are length and width; `bill_depth` is the depth at the root and at
# the tip, `crest` a height on the nape, `perch` a branch, a wire, the shore or water.
Family = namedtuple(
    "Family",
    "back belly head wing bill legs body posture head_at head_radius wing_size "
    "tail_size bill_depth leg_length crest perch",
)


@dataclass(frozen=True)
class Species:
    """A class of `synthetic_birds`: its name, its family's key, and its own marks.

    Marks are the length of the beak, in units of half the bird's length; the depth of
    the tail's fork, as a fraction of its length (below 0, it is a wedge); and the
    colors of eye ring, cap, bib, wing bar and tail end, `None` for no such mark.
    """

    name: str
    family: str
    beak: float
    tail: float = 0.1
    eye: Colour | None = None
    crown: Colour | None = None
    throat: Colour | None = None
    wing_bar: Colour | None = None
    tail_band: Colour | None = None


WHITE, BLACK = (250, 246, 236), (28, 26, 30)
RED, YELLOW = (206, 44, 40), (255, 208, 46)
# fmt: off
FAMILIES = {
    "finch": Family(
        (142, 92, 62), (226, 158, 124), (112, 124, 148), (92, 62, 48), (228, 186, 120),
        (120, 80, 70), (0.98, 0.70), 20, (0.40, -0.34), 0.29, (0.78, 0.40),
        (0.46, 0.24), (0.22, 0.03), 0.16, 0, "branch"),
    "warbler": Family(
        (122, 140, 58), (246, 220, 84), (196, 190, 70), (84, 98, 56), (70, 62, 54),
        (110, 84, 60), (0.92, 0.52), 14, (0.42, -0.27), 0.27, (0.74, 0.30),
        (0.50, 0.20), (0.09, 0.02), 0.18, 0, "branch"),
    "swallow": Family(
        (40, 66, 128), (240, 226, 204), (46, 76, 146), (30, 46, 92), (40, 36, 40),
        (70, 50, 50), (0.92, 0.46), 36, (0.34, -0.40), 0.25, (1.00, 0.28),
        (0.54, 0.50), (0.10, 0.02), 0.08, 0, "wire"),
    "sandpiper": Family(
        (158, 140, 118), (238, 232, 222), (178, 160, 136), (98, 80, 66), (226, 92, 44),
        (206, 150, 60), (0.86, 0.50), 8, (0.22, -0.42), 0.22, (0.74, 0.32),
        (0.30, 0.16), (0.13, 0.06), 0.40, 0, "shore"),
    "jay": Family(
        (84, 148, 208), (222, 224, 230), (92, 160, 222), (42, 78, 140), (48, 48, 56),
        (70, 66, 72), (0.90, 0.52), 30, (0.36, -0.36), 0.26, (0.74, 0.34),
        (0.62, 0.32), (0.13, 0.03), 0.18, 0.24, "branch"),
    "duck": Family(
        (128, 108, 98), (206, 198, 190), (34, 108, 84), (104, 88, 80), (238, 166, 40),
        (232, 130, 40), (1.36, 0.60), 4, (0.50, -0.44), 0.25, (0.90, 0.36),
        (0.28, 0.14), (0.15, 0.11), 0, 0, "water"),
}
SPECIES = (
    Species("Common Finch", "finch", 0.22),
    Species("Ringed Finch", "finch", 0.22, eye=WHITE),
    Species("Barred Finch", "finch", 0.22, wing_bar=WHITE),
    Species("Meadow Warbler", "warbler", 0.19),
    Species("Capped Warbler", "warbler", 0.19, crown=BLACK),
    Species("Bibbed Warbler", "warbler", 0.19, throat=BLACK),
    Species("Barn Swallow", "swallow", 0.12, tail=-0.3),
    Species("Forked Swallow", "swallow", 0.12, tail=0.9),
    Species("Ruby Swallow", "swallow", 0.12, tail=-0.3, throat=RED),
    Species("Short-billed Sandpiper", "sandpiper", 0.16),
    Species("Long-billed Sandpiper", "sandpiper", 0.66),
    Species("Barred Sandpiper", "sandpiper", 0.16, wing_bar=WHITE),
    Species("Blue Jay", "jay", 0.2),
    Species("Banded Jay", "jay", 0.2, tail_band=YELLOW),
    Species("Barred Jay", "jay", 0.2, wing_bar=WHITE),
    Species("Lake Duck", "duck", 0.3),
    Species("Goggled Duck", "duck", 0.3, eye=YELLOW),
    Species("Bibbed Duck", "duck", 0.3, throat=WHITE),
)
SKIES = [(150, 190, 228), (206, 222, 236), (244, 214, 190), (120, 150, 190)]
LEAVES = [(74, 116, 54), (112, 146, 66), (46, 82, 52), (176, 164, 72), (150, 104, 60)]
WOODS = [(104, 82, 66), (134, 116, 100), (78, 66, 60), (160, 140, 118)]
WATERS = [(84, 128, 150), (126, 160, 170), (70, 96, 104), (150, 176, 196)]
SANDS = [(196, 178, 146), (160, 146, 126), (128, 124, 104), (214, 204, 180)]
WIRES = [(40, 38, 42), (96, 92, 96)]
TOWN = [(176, 84, 66), (206, 196, 180), (90, 98, 116), (220, 190, 90), (60, 58, 64),
        (128, 168, 176), (240, 236, 228), (150, 100, 130)]
# Name, colors of the backdrop, and the blots scattered over it: their colors, number
# (from, and below), width and height as fractions of the picture's side.
BACKGROUNDS: tuple[tuple[Any, ...], ...] = (
    ("sky", SKIES, [(246, 246, 248), *SKIES], (0, 7), (0.2, 0.6), (0.06, 0.2)),
    ("leaves", LEAVES, LEAVES, (20, 60), (0.06, 0.24), (0.06, 0.24)),
    ("branches", SKIES + LEAVES, LEAVES, (0, 14), (0.05, 0.12), (0.05, 0.12)),
    ("water", WATERS + SKIES, WATERS + SKIES, (10, 30), (0.2, 0.7), (0.01, 0.05)),
    ("meadow", SKIES, TOWN + LEAVES, (10, 40), (0.02, 0.07), (0.02, 0.07)),
    ("town", SKIES + TOWN, TOWN, (6, 22), (0.06, 0.4), (0.06, 0.5)),
)
# fmt: on


def distinguishing_parts(species_a: int, species_b: int) -> tuple[str, ...]:
    """Names the parts that distinguish two species, given by class index.

    Returns:
        Keys of `Drawing.parts`: the one or two parts in which siblings differ,
        `("bird",)` across families, or an empty tuple for the same species.

    Raises:
        APINetError: If there is no such class.

    Example:
        >>> distinguishing_parts(0, 1)
        ('eye',)
    """
    a, b = species_at(species_a), species_at(species_b)
    if a.family != b.family:
        return ("bird",)
    marks = [f.name for f in fields(Species)[2:]]
    return tuple(mark for mark in marks if getattr(a, mark) != getattr(b, mark))


def species_at(index: int) -> Species:
    """Returns the species of a class index; raises `APINetError` if there is none."""
    if 0 <= index < len(SPECIES):
        return SPECIES[index]
    raise APINetError(
        f"synthetic_birds has no such class: species={index!r}; give 0 to "
        f"{len(SPECIES) - 1}."
    )


def background(rng: Generator, size: int) -> Any:
    """Draws an RGB `PIL.Image` of the background, more or less out of focus."""
    from PIL import Image, ImageDraw, ImageFilter

    name, backdrop, palette, counts, widths, heights = BACKGROUNDS[
        rng.integers(len(BACKGROUNDS))
    ]
    strokes: list[tuple[str, Any, Colour, int]] = []
    highest = 0.1 if name == "town" else 0.0
    if name == "branches":
        count = int(rng.integers(4, 12))
        ends = rng.uniform(-0.3, 1.3, (count, 4)) * size
        thick = np.maximum(1, np.rint(rng.uniform(0.01, 0.06, count) * size))
        woods = _varied(rng, WOODS, count)
        strokes += zip(["line"] * count, ends, woods, thick.astype(int), strict=True)
    elif name == "meadow":
        highest = float(rng.uniform(0.3, 0.8))
        ground = np.array([0, highest * size, size, size])
        strokes.append(("rectangle", ground, _varied(rng, LEAVES, 1)[0], 1))
    count = int(rng.integers(*counts))
    colours = _varied(rng, palette, count)
    middles = [rng.uniform(start, 1.1, count) for start in (-0.1, highest)]
    halves = [rng.uniform(a, b, count) / 2 for a, b in (widths, heights)]
    corners = np.subtract(middles, halves), np.add(middles, halves)
    shape = "rectangle" if name == "town" else "ellipse"
    boxes = np.concatenate(corners).T * size
    strokes += zip([shape] * count, boxes, colours, [1] * count, strict=True)

    picture = Image.new("RGB", (1, 2))
    picture.putdata(_varied(rng, backdrop, 2))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    for shape, where, colour, width in strokes:
        getattr(pen, shape)(where.tolist(), colour, width=int(width))
    focus = float(rng.uniform(0.006, 0.03)) * size
    return picture.filter(ImageFilter.GaussianBlur(focus))


def perch(
    rng: Generator, pen: Any, kind: str, x: float, y: float, unit: float, side: int
) -> None:
    """Draws the bird's perch, a `Family.perch`, with a `PIL.ImageDraw.ImageDraw`.

    All in px: `x` and `y` are the position of the feet (for water, `y` is the surface),
    `unit` is half the bird's length and `side` the side of the picture.
    """
    if kind in ("branch", "wire"):
        (wood,) = _varied(rng, WOODS if kind == "branch" else WIRES, 1)
        thick = unit * (float(rng.uniform(0.1, 0.2)) if kind == "branch" else 0.04)
        y += thick / 2
        drop = float(rng.uniform(-0.22, 0.22)) * 2 * side
        ends = (x - 2 * side, y - drop, x + 2 * side, y + drop)
        pen.line(ends, fill=wood, width=max(1, round(thick)))
        return
    # The surface is wavy: a sum of two sines, sampled across the picture.
    palette = SANDS if kind == "shore" else WATERS
    ground, *spots = _varied(rng, palette, 15, spread=32)
    across = np.linspace(0, side, 25)
    reach, (p, q) = float(rng.uniform(0.01, 0.03)) * unit, rng.uniform(0, 6.28, 2)
    waves = np.sin(across / unit * 5 + p) + np.sin(across / unit * 9 + q)
    surface = np.stack([across, y + reach * waves], axis=1).ravel().tolist()
    pen.polygon([*surface, side, side, 0, side], fill=ground)
    where = rng.uniform(0, 1, (len(spots), 2)) * (side, 0.9) + (0, 0.1)
    radii = rng.uniform((0.05, 0.015), (0.2, 0.04), (len(spots), 2)) * unit
    where[:, 1] = y + where[:, 1] * max(side - y, 1.0)
    boxes = np.concatenate([where - radii, where + radii], axis=1)
    for box, colour in zip(boxes.tolist(), spots, strict=True):
        pen.ellipse(box, fill=colour)


def lit(rng: Generator, picture: Any) -> NDArray[np.uint8]:
    """Simulates a photo: focus, brightness, contrast, color cast, shade, noise."""
    from PIL import ImageFilter

    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.6))))
    pixels = np.asarray(picture, np.float32)
    # Brightness and a color cast.
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    contrast = rng.uniform(0.8, 1.15)
    # Light falls off to one side.
    ramp = np.linspace(-0.5, 0.5, len(pixels), dtype=np.float32)
    fall = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    shade = 1 + fall[0] * ramp[:, None] + fall[1] * ramp
    factor = shade[..., None] * (contrast * gain).astype(np.float32)
    noise = rng.standard_normal(pixels.shape, np.float32)
    pixels = pixels * factor + np.float32(118 * (1 - contrast))
    pixels += noise * np.float32(rng.uniform(0, 6))
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)


def _varied(
    rng: Generator, palette: Sequence[Colour], count: int, spread: float = 26
) -> list[Colour]:
    """Picks colors, each close to one in a palette."""
    base = np.array(palette)[rng.integers(len(palette), size=count)]
    moved = np.clip(base + rng.uniform(-spread, spread, (count, 3)), 0, 255)
    return [(r, g, b) for r, g, b in moved.astype(int).tolist()]
