"""`synthetic_birds`: look-alike birds drawn at run time, with known part locations.

Siblings drawn from the same seed share their scene and its light to the last pixel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from keras_apinet.data.bird_species import (
    BLACK,
    FAMILIES,
    SPECIES,
    WHITE,
    Colour,
    Point,
    Species,
    background,
    distinguishing_parts,
    lit,
    perch,
    species_at,
)
from keras_apinet.data.image_data import Contents, ImageData, Split, pack
from keras_apinet.errors import APINetError

__all__ = ["SPECIES", "Drawing", "Species", "distinguishing_parts", "draw"]

# Pictures per species.
PER_SPECIES = {"train": 100, "val": 20, "test": 30}
# Seeds reserved for each split.
_SEEDS_PER_SPLIT = 1_000_000
# Oversampling factor; averaging down gives smooth edges.
_OVERSAMPLING = 3
# Along every curve.
_STEPS = np.linspace(0, 1, 25)
Box = tuple[float, float, float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """A picture of a bird with the locations of its parts.

    Args:
        pixels: uint8 `[size, size, 3]`, 0..255.
        parts: Box `(left, top, right, bottom)` in px, clipped to the picture, for
            "bird" (the whole bird) and for each part: "beak", "tail", "eye", "crown",
            "throat", "wing_bar", "tail_band" and "wing". Every part has a box, even if
            the species has no mark there.
    """

    pixels: NDArray[np.uint8]
    parts: dict[str, Box]


def draw(species: int, seed: int, size: int = 96) -> Drawing:
    """Draws one picture as a pure function of its arguments.

    The seed determines pose, scale, position, scene, colors and light, the species only
    the bird itself. Siblings drawn from the same seed differ only in their
    distinguishing parts, so use a different seed for each picture of a data set.

    Args:
        species: Class index, from 0 to `len(SPECIES) - 1`.
        seed: Integer of at least 0.
        size: Side of the picture in px, at least 32. Default 96.

    Raises:
        APINetError: If an argument is out of range.

    Example:
        >>> drawing = draw(species=1, seed=0)
        >>> drawing.pixels.shape
        (96, 96, 3)
        >>> left, top, right, bottom = drawing.parts["eye"]
    """
    from PIL import Image, ImageDraw

    bird = species_at(species)
    family = FAMILIES[bird.family]
    if seed < 0:
        raise APINetError(f"seed={seed} must not be negative; use 0 or more.")
    if size < 32:
        raise APINetError(f"size={size} is too small for a bird; use 32 px or more.")
    children = np.random.SeedSequence(seed).spawn(3)
    scene_rng, bird_rng, light_rng = map(np.random.default_rng, children)
    side = size * _OVERSAMPLING
    afloat = family.perch == "water"
    shapes = list(_shapes(bird, bird_rng))
    # Position of the bird, in px of the oversampled picture; afloat, it leans less.
    unit = side * float(bird_rng.uniform(0.38, 0.49))
    place = side / 2 + (0.52 * side - unit) * bird_rng.uniform(-1, 1, 2)
    facing = unit if bird_rng.random() < 0.5 else -unit
    lean = math.radians(bird_rng.uniform(-14, 14)) / (3 if afloat else 1)
    c, s = math.cos(lean), math.sin(lean)
    to_pixels = np.array([[facing * c, facing * s], [-unit * s, unit * c]])
    gain, shift = float(bird_rng.uniform(0.85, 1.15)), bird_rng.uniform(-12, 12, 3)

    def tinted(colour: Colour) -> tuple[int, ...]:
        shade = np.rint(np.clip(np.multiply(colour, gain) + shift, 0, 255))
        return tuple(shade.astype(int).tolist())

    picture = background(scene_rng, size).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(picture)
    x, y = place.tolist()
    belly = 0.42 * family.body[1]
    ground = y + (0.5 * belly if afloat else belly + family.leg_length) * unit
    if not afloat:
        perch(scene_rng, pen, family.perch, x, ground, unit, side)
        # Two legs with a toe each, upright however the bird leans.
        legs, width = tinted(family.legs), max(1, round(0.045 * unit))
        for hip in (-0.07, 0.06):
            top, foot, toe = (x + (hip + ahead) * facing for ahead in (0, 0.03, 0.13))
            pen.line((top, y, foot, ground), fill=legs, width=width)
            pen.line((foot, ground, toe, ground), fill=legs, width=width)
    parts, painted = {}, [np.array([(x, ground)])]
    for part, outline, colour in shapes:
        corners = np.rint(outline @ to_pixels + place)
        if colour is not None:
            pen.polygon(corners.ravel().tolist(), fill=tinted(colour))
            painted.append(corners)
        if part:
            parts[part] = _box(corners, size)
    if afloat:
        perch(scene_rng, pen, family.perch, x, ground, unit, side)
    parts["bird"] = _box(np.concatenate(painted), size)
    return Drawing(lit(light_rng, picture.reduce(_OVERSAMPLING)), parts)


def _box(points: Points, size: int) -> Box:
    inside = np.clip(points / _OVERSAMPLING, 0, size)
    (left, top), (right, bottom) = inside.min(axis=0), inside.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _shapes(species: Species, rng: Generator) -> Iterator[tuple[str, Points, Any]]:
    """Lays out one bird in a random pose, in the units that `Family` explains.

    Yields, from back to front, the part that a shape shows ("" for none), its outline
    `[n, 2]` and its color (`None` if it is only located, not painted). Siblings in the
    same pose are identical except for the parts in which their species differ.
    """
    family = FAMILIES[species.family]
    # Degrees by which the beak, the wing tip and the tail tip are raised, how far the
    # head is turned toward the viewer, and factors for body height and marks.
    nod, turn, wing_lift, tail_lift, plump, size = rng.uniform(
        (-20.0, 0.0, -8.0, -14.0, 0.9, 0.9), (18.0, 1.0, 20.0, 14.0, 1.1, 1.15)
    ).tolist()

    def raised(points: Points) -> Points:
        return _turned(points, family.posture)

    # The tail, forked by a fraction of its length. The rump hides the gap that a raised
    # tail would leave.
    length, width = family.tail_size
    root = (-0.40 * family.body[0], 0.0)
    tip = root[0] - length
    yield "", raised(_rod(root, width / 4, (0, 0), 0.1)), family.back
    bands = ("tail", 0.0, family.back), ("tail_band", 0.58, species.tail_band)
    for part, start, colour in bands:
        half = 0.5 * width * (0.45 + 0.55 * start)
        top = root[0] - start * length
        notch = min(top, tip + species.tail * length)
        corners = [(top, -half), (tip, -width / 2), (notch, 0), (tip, width / 2)]
        outline = _turned(np.array([*corners, (top, half)]), -tail_lift, root)
        yield part, raised(outline), colour

    # The body, an egg, and the belly, a piece of it.
    length, height = family.body[0] / 2, family.body[1] / 2 * plump
    for begin, end, colour in ((0, 360, family.back), (-28, 168, family.belly)):
        t = np.radians(begin + (end - begin) * _STEPS)
        egg = [length * np.cos(t), height * np.sin(t) * (1 + 0.16 * np.cos(t))]
        yield "", raised(np.stack(egg, axis=1)), colour

    # The head, its marks, and the neck behind it, which does not nod.
    (x, y), r = family.head_at, family.head_radius
    neck = raised(np.array([(0.26 * family.body[0], 0.0)]))[0].tolist()
    yield "", _rod((x, y), 0.96 * r, neck, 0.3 * family.body[1]), family.head
    chin, breast = (x + 0.45 * r, y + 0.62 * r), (x + 0.15 * r, y + 1.15 * r)
    crest = (x - 1.1 * r - 0.6 * family.crest, y - 0.6 * r - family.crest)
    tuft = np.array([(x - 0.1 * r, y - 0.9 * r), crest, (x - 0.95 * r, y)])
    thick, thin = family.bill_depth
    length = species.beak * (1 - 0.25 * turn)
    gape = (x + 0.86 * r, y + 0.14 * r)
    end_of_bill = (gape[0] + length, gape[1] + 0.06 * length)
    hem = _ellipse((x, y + 0.05 * r), (0.8 * r, 0.45 * r), 330, 196)
    cap = np.concatenate([_ellipse((x, y), r, 196, 330), hem])
    ex, ey = x + (0.36 - 0.22 * turn) * r, y - 0.06 * r
    for part, outline, colour in (
        ("throat", _rod(chin, 0.44 * r * size, breast, 0.6 * r * size), species.throat),
        ("", tuft, family.head if family.crest else None),
        ("beak", _rod(gape, thick / 2, end_of_bill, thin / 2), family.bill),
        ("", _ellipse((x, y), r), family.head),
        ("crown", cap, species.crown),
        ("eye", _ellipse((ex, ey), 0.125 * size), species.eye),
        ("", _ellipse((ex, ey), 0.066), BLACK),
        ("", _ellipse((ex + 0.02, ey - 0.024), 0.022), WHITE),
    ):
        yield part, _turned(outline, nod, (x, y)), colour

    # The wing, its darker end and its bar: pieces between two fractions of its length.
    length, width = family.wing_size
    x, y = 0.24 * family.body[0], -0.12 * family.body[1]
    red, green, blue = (round(channel * 0.8) for channel in family.wing)
    breadth = 0.085 * size * 0.78 / length
    for part, start, stop, slant, colour in (
        ("wing", 0.0, 1.0, 0.0, family.wing),
        ("", 0.52, 1.0, 0.0, (red, green, blue)),
        ("wing_bar", 0.36 - breadth, 0.36 + breadth, 0.25, species.wing_bar),
    ):
        u = start + (stop - start) * _STEPS
        half_width = width * 0.86 * u**0.45 * (1 - u) ** 0.75
        across, along = slant * half_width, x - length * u
        upper = np.stack([along - across, y - 0.8 * half_width], axis=1)
        lower = np.stack([along + across, y + half_width], axis=1)
        feather = np.concatenate([upper, lower[::-1]])
        yield part, raised(_turned(feather, -wing_lift, (x, y))), colour


def _turned(points: Points, degrees: float, pivot: Point = (0, 0)) -> Points:
    """Rotates points about a pivot, counterclockwise as seen."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray((points - pivot) @ np.array([[c, -s], [s, c]]) + pivot)


def _ellipse(
    middle: Point, radii: float | Point, start: float = 0, stop: float = 360
) -> Points:
    """Returns points on an ellipse; degrees run clockwise as seen, from the right."""
    t = np.radians(start + (stop - start) * _STEPS)
    return np.stack([np.cos(t), np.sin(t)], axis=1) * radii + middle


def _rod(a: Point, ra: float, b: Point, rb: float) -> Points:
    """Returns the outline of two discs and the area between them."""
    heading = math.degrees(math.atan2(b[1] - a[1], b[0] - a[0]))
    lean = math.degrees(math.acos(max(-1.0, min(1.0, (ra - rb) / math.dist(a, b)))))
    around_a = _ellipse(a, ra, heading + lean, heading + 360 - lean)
    return np.concatenate([around_a, _ellipse(b, rb, heading - lean, heading + lean)])


@dataclass
class BirdReader:
    """Pictures of the species `[n]`, drawn on first use and then cached."""

    name: str
    species: NDArray[np.int32]
    first_seed: int
    pictures: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    kind: Literal["raw"] = "raw"

    def reference(self, index: int) -> str:
        """Returns the split, the number and the seed of a picture."""
        return f"{self.name}#{index} (seed {self.first_seed + index})"

    def drawing(self, index: int) -> Drawing:
        """Redraws a picture with the location of every part."""
        return draw(int(self.species[index]), self.first_seed + int(index))

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """Returns the pixels."""
        for index in set(indices.tolist()) - self.pictures.keys():
            self.pictures[index] = self.drawing(index).pixels
        return pack([self.pictures[index] for index in indices.tolist()])


def load_birds(seed: int) -> ImageData:
    """Creates the data set of invented birds; each seed gives different pictures."""
    splits = {}
    for number, (name, count) in enumerate(PER_SPECIES.items()):
        species = np.repeat(np.arange(len(SPECIES), dtype=np.int32), count)
        first_seed = (seed * len(PER_SPECIES) + number) * _SEEDS_PER_SPLIT
        reader = BirdReader(f"synthetic_birds/{name}", species, first_seed)
        splits[name] = Split.of(reader, species)
    return ImageData(
        "synthetic_birds",
        tuple(species.name for species in SPECIES),
        splits,
        groups={"family": tuple(species.family for species in SPECIES)},
        description="invented birds in look-alike families, drawn at run time",
    )
