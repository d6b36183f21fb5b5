"""Draw one picture of one species."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.synthetic.anatomy import Points, Pose, lay_out
from keras_apinet.data.synthetic.scene import background, lit, perch
from keras_apinet.data.synthetic.species import FAMILIES, Colour, species_at
from keras_apinet.errors import APINetError

if TYPE_CHECKING:
    from PIL import ImageDraw

Box = tuple[float, float, float, float]

# Drawn this many times larger, then averaged down: smooth edges.
_OVERSAMPLING = 3


@dataclass(frozen=True)
class Drawing:
    """A picture of a bird, and where its parts are.

    Args:
        pixels: uint8 `[size, size, 3]`, 0..255.
        parts: Box `(left, top, right, bottom)` in px, clipped to the picture, of
            "bird" (the whole of it) and of each part: "beak", "tail", "eye", "crown",
            "throat", "wing_bar", "tail_band" and "wing". A part has its box whether
            the species bears a mark there or not.
    """

    pixels: NDArray[np.uint8]
    parts: dict[str, Box]


@dataclass(frozen=True)
class _Place:
    """Where and how large a bird is, in px of the oversampled picture."""

    x: float
    y: float
    unit: float
    facing: int
    lean: float

    @classmethod
    def sample(cls, rng: np.random.Generator, side: int, steady: bool) -> "_Place":
        """Draw a place; a `steady` bird leans less."""
        unit = side * float(rng.uniform(0.38, 0.49))
        x, y = side / 2 + (0.52 * side - unit) * rng.uniform(-1, 1, 2)
        facing = 1 if rng.random() < 0.5 else -1
        lean = math.radians(rng.uniform(-14, 14)) / (3 if steady else 1)
        return cls(float(x), float(y), unit, facing, lean)

    def locate(self, points: Points) -> Points:
        """Bring points from the bird's own units to whole px."""
        c, s = self.unit * math.cos(self.lean), self.unit * math.sin(self.lean)
        matrix = np.array([[self.facing * c, self.facing * s], [-s, c]])
        return np.asarray(np.rint(points @ matrix + (self.x, self.y)))


def draw(species: int, seed: int, size: int = 96) -> Drawing:
    """Draw one picture, a pure function of its arguments.

    The seed fixes pose, scale, place, scene, colours and light, and the species only
    the bird: siblings drawn from one seed differ in their distinguishing parts and in
    nothing else. So give each picture of a data set a seed of its own.

    Args:
        species: Class index, from 0 to `len(SPECIES) - 1`.
        seed: Any whole number from 0.
        size: Side of the picture in px, at least 32. Default 96.

    Returns:
        The drawing.

    Raises:
        APINetError: If an argument is out of its range.

    Example:
        >>> drawing = draw(species=1, seed=0)
        >>> drawing.pixels.shape
        (96, 96, 3)
        >>> left, top, right, bottom = drawing.parts["eye"]
    """
    from PIL import Image, ImageDraw

    kind = species_at(species)
    family = FAMILIES[kind.family]
    if seed < 0:
        raise APINetError(f"A seed must not be negative: seed={seed}; give 0 or more.")
    if size < 32:
        raise APINetError(f"A bird needs at least 32 px: size={size}; give 32 or more.")
    scene_rng, bird_rng, light_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)
    )
    side = size * _OVERSAMPLING
    afloat = family.perch == "water"
    bird = lay_out(family, kind, Pose.sample(bird_rng))
    place = _Place.sample(bird_rng, side, steady=afloat)
    gain = float(bird_rng.uniform(0.85, 1.15))
    shift = bird_rng.uniform(-12, 12, 3).tolist()

    def tinted(colour: Colour) -> Colour:
        r, g, b = (
            max(0, min(255, round(channel * gain + move)))
            for channel, move in zip(colour, shift, strict=True)
        )
        return r, g, b

    picture = background(scene_rng, size).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(picture)
    belly = 0.42 * family.body[1]
    sink = 0.5 * belly if afloat else belly + family.leg_length
    ground = (place.x, place.y + sink * place.unit)
    if not afloat:
        perch(scene_rng, pen, family.perch, ground, place.unit, side)
        _draw_legs(pen, place, ground[1], tinted(family.legs))
    for outline, colour in bird.strokes:
        pen.polygon(place.locate(outline).ravel().tolist(), fill=tinted(colour))
    if afloat:
        perch(scene_rng, pen, family.perch, ground, place.unit, side)

    corners = {name: place.locate(outline) for name, outline in bird.parts.items()}
    corners["bird"] = np.concatenate([corners["bird"], [ground]])
    return Drawing(
        pixels=lit(light_rng, picture.reduce(_OVERSAMPLING)),
        parts={name: _box(points, size) for name, points in corners.items()},
    )


def _box(points: Points, size: int) -> Box:
    inside = np.clip(points / _OVERSAMPLING, 0, size)
    (left, top), (right, bottom) = inside.min(axis=0), inside.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _draw_legs(
    pen: "ImageDraw.ImageDraw", place: _Place, ground: float, colour: Colour
) -> None:
    """Two legs, upright however the bird leans, and a toe each."""
    ahead = place.facing * place.unit
    width = max(1, round(0.045 * place.unit))
    for hip in (-0.07, 0.06):
        foot, toe = place.x + (hip + 0.03) * ahead, place.x + (hip + 0.13) * ahead
        leg = (place.x + hip * ahead, place.y, foot, ground)
        pen.line(leg, fill=colour, width=width)
        pen.line((foot, ground, toe, ground), fill=colour, width=width)
