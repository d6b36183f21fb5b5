"""What lies behind and below a bird, and the light that falls on it.

Nothing here knows of species: siblings drawn from one seed share their scene, and
the light on it, to the last pixel.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from keras_apinet.data.birds.species import Colour

Palette = tuple[Colour, ...]
Pair = tuple[float, float]

SKIES = ((150, 190, 228), (206, 222, 236), (244, 214, 190), (120, 150, 190))
LEAVES = ((74, 116, 54), (112, 146, 66), (46, 82, 52), (176, 164, 72), (150, 104, 60))
WOODS = ((104, 82, 66), (134, 116, 100), (78, 66, 60), (160, 140, 118))
WATERS = ((84, 128, 150), (126, 160, 170), (70, 96, 104), (150, 176, 196))
SANDS = ((196, 178, 146), (160, 146, 126), (128, 124, 104), (214, 204, 180))
WIRES = ((40, 38, 42), (96, 92, 96))
TOWN = (
    (176, 84, 66), (206, 196, 180), (90, 98, 116), (220, 190, 90), (60, 58, 64),
    (128, 168, 176), (240, 236, 228), (150, 100, 130),
)  # fmt: skip
CLOUDS = ((246, 246, 248), *SKIES)

# Name, colours of the backdrop, and the blots scattered over it: their colours, number
# (from, and below), width and height as shares of the picture's side.
# fmt: off
_BACKGROUNDS: tuple[tuple[str, Palette, Palette, tuple[int, int], Pair, Pair], ...] = (
    ("sky", SKIES, CLOUDS, (0, 7), (0.2, 0.6), (0.06, 0.2)),
    ("leaves", LEAVES, LEAVES, (20, 60), (0.06, 0.24), (0.06, 0.24)),
    ("branches", SKIES + LEAVES, LEAVES, (0, 14), (0.05, 0.12), (0.05, 0.12)),
    ("water", WATERS + SKIES, WATERS + SKIES, (10, 30), (0.2, 0.7), (0.01, 0.05)),
    ("meadow", SKIES, TOWN + LEAVES, (10, 40), (0.02, 0.07), (0.02, 0.07)),
    ("town", SKIES + TOWN, TOWN, (6, 22), (0.06, 0.4), (0.06, 0.5)),
)
# fmt: on


def _varied(
    rng: Generator, palette: Palette, count: int, spread: float = 26
) -> list[Colour]:
    """Picks colours, each near one of a palette."""
    base = np.array(palette)[rng.integers(len(palette), size=count)]
    moved = np.clip(base + rng.uniform(-spread, spread, (count, 3)), 0, 255)
    return [(r, g, b) for r, g, b in moved.astype(int).tolist()]


def background(rng: Generator, size: int) -> Any:
    """An RGB `PIL.Image` of what is behind the bird, more or less out of focus."""
    from PIL import Image, ImageDraw, ImageFilter

    number = int(rng.integers(len(_BACKGROUNDS)))
    name, backdrop, palette, counts, widths, heights = _BACKGROUNDS[number]
    strokes: list[tuple[str, Any, dict[str, Any]]] = []
    highest = 0.1 if name == "town" else 0.0
    if name == "branches":
        count = int(rng.integers(4, 12))
        ends = rng.uniform(-0.3, 1.3, (count, 4)) * size
        thick = np.maximum(1, np.rint(rng.uniform(0.01, 0.06, count) * size))
        colours = _varied(rng, WOODS, count)
        for line, width, colour in zip(ends.tolist(), thick, colours, strict=True):
            strokes.append(("line", line, {"fill": colour, "width": int(width)}))
    elif name == "meadow":
        highest = float(rng.uniform(0.3, 0.8))
        ground = (0, highest * size, size, size)
        strokes.append(("rectangle", ground, {"fill": _varied(rng, LEAVES, 1)[0]}))
    count = int(rng.integers(*counts))
    colours = _varied(rng, palette, count)
    x, y = rng.uniform(-0.1, 1.1, count), rng.uniform(highest, 1.1, count)
    w, h = rng.uniform(*widths, count), rng.uniform(*heights, count)
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1) * size
    shape = "rectangle" if name == "town" else "ellipse"
    for box, colour in zip(boxes.tolist(), colours, strict=True):
        strokes.append((shape, box, {"fill": colour}))

    picture = Image.new("RGB", (1, 2))
    picture.putdata(_varied(rng, backdrop, 2))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    for shape, where, options in strokes:
        getattr(pen, shape)(where, **options)
    focus = float(rng.uniform(0.006, 0.03)) * size
    return picture.filter(ImageFilter.GaussianBlur(focus))


def perch(
    rng: Generator, pen: Any, kind: str, x: float, y: float, unit: float, side: int
) -> None:
    """Draws what the bird sits on, with a `PIL.ImageDraw.ImageDraw`.

    `kind` is a `Family.perch`. In px of the picture, `x` and `y` are where the feet
    stand (of water, `y` is the surface), `unit` is half the bird's length and `side`
    the picture's.
    """
    if kind in ("branch", "wire"):
        (wood,) = _varied(rng, WOODS if kind == "branch" else WIRES, 1)
        thick = unit * (float(rng.uniform(0.1, 0.2)) if kind == "branch" else 0.04)
        y += thick / 2
        drop = float(rng.uniform(-0.22, 0.22)) * 2 * side
        ends = (x - 2 * side, y - drop, x + 2 * side, y + drop)
        pen.line(ends, fill=wood, width=max(1, round(thick)))
        return
    # The surface is wavy: the sum of two sines, sampled across the picture.
    palette = SANDS if kind == "shore" else WATERS
    ground, *spots = _varied(rng, palette, 15, spread=32)
    across = np.linspace(0, side, 25)
    reach, (p, q) = float(rng.uniform(0.01, 0.03)) * unit, rng.uniform(0, 6.28, 2)
    waves = np.sin(across / unit * 5 + p) + np.sin(across / unit * 9 + q)
    surface = np.stack([across, y + reach * waves], axis=1)
    outline = np.concatenate([surface, [(side, side), (0, side)]])
    pen.polygon(outline.ravel().tolist(), fill=ground)
    where = rng.uniform(0, 1, (len(spots), 2)) * (side, 0.9) + (0, 0.1)
    radii = rng.uniform((0.05, 0.015), (0.2, 0.04), (len(spots), 2)) * unit
    where[:, 1] = y + where[:, 1] * max(side - y, 1.0)
    boxes = np.concatenate([where - radii, where + radii], axis=1)
    for box, colour in zip(boxes.tolist(), spots, strict=True):
        pen.ellipse(box, fill=colour)


def lit(rng: Generator, picture: Any) -> NDArray[np.uint8]:
    """Photographs a picture: focus, brightness, contrast, colour cast, shade, noise."""
    from PIL import ImageFilter

    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.6))))
    pixels = np.asarray(picture, np.float32)
    # Brightness, and a colour cast.
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
