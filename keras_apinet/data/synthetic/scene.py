"""What lies behind and below a bird, and the light that falls on it.

Nothing here knows of species: siblings drawn from one seed share their scene, and
the light on it, to the last pixel.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.synthetic.species import Colour

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

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

Palette = tuple[Colour, ...]
Details = Callable[["ImageDraw.ImageDraw", int], None]
Fill = tuple[Colour, Colour, Details]


def varied(
    rng: np.random.Generator, palette: Palette, count: int, spread: float = 26
) -> list[Colour]:
    """Pick colours, each near one of a palette."""
    base = np.array(palette)[rng.integers(len(palette), size=count)]
    moved = np.clip(base + rng.uniform(-spread, spread, (count, 3)), 0, 255)
    return [(r, g, b) for r, g, b in moved.astype(int).tolist()]


def background(rng: np.random.Generator, size: int) -> "Image.Image":
    """Draw what lies behind the bird, more or less out of focus.

    Args:
        rng: Source of every choice.
        size: Side of the picture in px.

    Returns:
        RGB picture of sky, leaves, branches, water, a meadow or a town.
    """
    from PIL import Image, ImageDraw, ImageFilter

    fill = _FILLS[int(rng.integers(len(_FILLS)))]
    above, below, details = fill(rng)
    picture = Image.new("RGB", (1, 2), above)
    picture.putpixel((0, 1), below)
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    details(ImageDraw.Draw(picture), size)
    focus = float(rng.uniform(0.006, 0.03)) * size
    return picture.filter(ImageFilter.GaussianBlur(focus))


def _blots(
    rng: np.random.Generator,
    palette: Palette,
    count: int,
    width: tuple[float, float],
    height: tuple[float, float],
    top: float = 0.0,
    shape: str = "ellipse",
) -> Details:
    """Scatter ellipses or rectangles, sizes as shares of the picture's side."""
    colours = varied(rng, palette, count)
    x, y = rng.uniform(-0.1, 1.1, count), rng.uniform(top, 1.1, count)
    w, h = rng.uniform(*width, count), rng.uniform(*height, count)
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)

    def details(pen: "ImageDraw.ImageDraw", side: int) -> None:
        paint = getattr(pen, shape)
        for box, colour in zip((boxes * side).tolist(), colours, strict=True):
            paint(box, fill=colour)

    return details


def _sky(rng: np.random.Generator) -> Fill:
    clouds = _blots(
        rng, ((246, 246, 248), *SKIES), int(rng.integers(0, 7)), (0.2, 0.6), (0.06, 0.2)
    )
    above, below = varied(rng, SKIES, 2)
    return above, below, clouds


def _leaves(rng: np.random.Generator) -> Fill:
    count = int(rng.integers(20, 60))
    leaves = _blots(rng, LEAVES, count, (0.06, 0.24), (0.06, 0.24))
    above, below = varied(rng, LEAVES, 2)
    return above, below, leaves


def _branches(rng: np.random.Generator) -> Fill:
    count = int(rng.integers(4, 12))
    ends = rng.uniform(-0.3, 1.3, (count, 2, 2))
    widths = rng.uniform(0.01, 0.06, count)
    colours = varied(rng, WOODS, count)
    leaves = _blots(rng, LEAVES, int(rng.integers(0, 14)), (0.05, 0.12), (0.05, 0.12))

    def details(pen: "ImageDraw.ImageDraw", side: int) -> None:
        for (a, b), width, colour in zip(ends * side, widths, colours, strict=True):
            pen.line([*a, *b], fill=colour, width=max(1, round(width * side)))
        leaves(pen, side)

    above, below = varied(rng, SKIES + LEAVES, 2)
    return above, below, details


def _water(rng: np.random.Generator) -> Fill:
    count = int(rng.integers(10, 30))
    ripples = _blots(rng, WATERS + SKIES, count, (0.2, 0.7), (0.01, 0.05))
    above, below = varied(rng, WATERS + SKIES, 2)
    return above, below, ripples


def _meadow(rng: np.random.Generator) -> Fill:
    horizon = float(rng.uniform(0.3, 0.8))
    (ground,) = varied(rng, LEAVES, 1)
    flowers = _blots(
        rng,
        TOWN + LEAVES,
        int(rng.integers(10, 40)),
        (0.02, 0.07),
        (0.02, 0.07),
        horizon,
    )

    def details(pen: "ImageDraw.ImageDraw", side: int) -> None:
        pen.rectangle([0, horizon * side, side, side], fill=ground)
        flowers(pen, side)

    above, below = varied(rng, SKIES, 2)
    return above, below, details


def _town(rng: np.random.Generator) -> Fill:
    count = int(rng.integers(6, 22))
    walls = _blots(rng, TOWN, count, (0.06, 0.4), (0.06, 0.5), 0.1, "rectangle")
    above, below = varied(rng, SKIES + TOWN, 2)
    return above, below, walls


_FILLS = (_sky, _leaves, _branches, _water, _meadow, _town)


def perch(
    rng: np.random.Generator,
    pen: "ImageDraw.ImageDraw",
    kind: str,
    feet: tuple[float, float],
    unit: float,
    side: int,
) -> None:
    """Draw what the bird sits on.

    Args:
        rng: Source of every choice.
        pen: Where to draw.
        kind: "branch", "wire", "shore" or "water", as in `Family.perch`.
        feet: Where the feet stand, in px of `pen`; for water, a point on its surface.
        unit: Half the bird's length, in px of `pen`.
        side: Side of the picture, in px of `pen`.
    """
    x, y = feet
    if kind in ("branch", "wire"):
        (wood,) = varied(rng, WOODS if kind == "branch" else WIRES, 1)
        thick = unit * (float(rng.uniform(0.1, 0.2)) if kind == "branch" else 0.04)
        y += thick / 2
        drop = float(rng.uniform(-0.22, 0.22)) * 2 * side
        ends = (x - 2 * side, y - drop, x + 2 * side, y + drop)
        pen.line(ends, fill=wood, width=max(1, round(thick)))
        return
    # The surface is wavy: the sum of two sines, sampled across the picture.
    palette = SANDS if kind == "shore" else WATERS
    ground, *spots = varied(rng, palette, 15, spread=32)
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


def lit(rng: np.random.Generator, picture: "Image.Image") -> NDArray[np.uint8]:
    """Photograph a picture: focus, brightness, contrast, colour cast, shade, noise.

    Args:
        rng: Source of every choice.
        picture: RGB picture of side `size`.

    Returns:
        uint8 pixels `[size, size, 3]`.
    """
    from PIL import ImageFilter

    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.6))))
    pixels = np.asarray(picture, np.float32)
    size = len(pixels)
    # Brightness, and a colour cast.
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    contrast = rng.uniform(0.8, 1.15)
    # Light falls off to one side.
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    fall = rng.uniform(-0.3, 0.3, 2)
    shade = 1 + np.float32(fall[0]) * ramp[:, None] + np.float32(fall[1]) * ramp
    factor = shade[..., None] * (contrast * gain).astype(np.float32)
    noise = rng.standard_normal((size, size, 3), np.float32)
    pixels = pixels * factor + np.float32(118 * (1 - contrast))
    pixels += noise * np.float32(rng.uniform(0, 6))
    return np.asarray(np.clip(pixels, 0, 255), np.uint8)
