"""The families of invented birds, and what tells siblings apart."""

from dataclasses import dataclass, field, fields
from typing import Literal

from keras_apinet.errors import APINetError

Colour = tuple[int, int, int]

WHITE: Colour = (250, 246, 236)
BLACK: Colour = (28, 26, 30)
RED: Colour = (206, 44, 40)
YELLOW: Colour = (255, 208, 46)


@dataclass(frozen=True)
class Family:
    """What siblings share: build, plumage and where they sit.

    Lengths are in units of half the bird's length (beak to tail is about 2), with the
    bird facing right, x to the right and y down from the middle of its body.

    Args:
        back: Colour of back and tail.
        belly: Colour of breast and belly.
        head: Colour of the head.
        wing: Colour of the wing.
        bill: Colour of the beak.
        legs: Colour of the legs.
        body: Length and height of the body.
        posture: Degrees by which the body is raised in front.
        head_at: Middle of the head.
        head_radius: Radius of the head.
        wing_size: Length and width of the folded wing.
        tail_size: Length, and width at the tip, of the tail.
        bill_depth: Thickness of the beak at its root and at its tip.
        leg_length: Length of the legs.
        crest: Height of the crest on the nape; 0 for none.
        perch: What the bird sits on.
    """

    back: Colour
    belly: Colour
    head: Colour
    wing: Colour
    bill: Colour
    legs: Colour
    body: tuple[float, float]
    posture: float
    head_at: tuple[float, float]
    head_radius: float
    wing_size: tuple[float, float]
    tail_size: tuple[float, float]
    bill_depth: tuple[float, float]
    leg_length: float
    crest: float
    perch: Literal["branch", "wire", "shore", "water"]


@dataclass(frozen=True)
class Species:
    """One class of `synthetic_birds`: a family, and the marks of its own.

    Every field but the first two is a part of the bird and bears that part's name.

    Args:
        name: Class name, such as "Ringed Finch".
        family: Key into `FAMILIES`.
        beak: Length of the beak, in units of half the bird's length.
        tail: How deep the tail is forked, as a share of its length; below 0 it is a
            wedge.
        eye: Colour of the ring around the eye, or None for no ring.
        crown: Colour of the cap, or None for no cap.
        throat: Colour of the bib below the beak, or None for no bib.
        wing_bar: Colour of the bar across the wing, or None for no bar.
        tail_band: Colour of the tail's end, or None for no band.
    """

    name: str
    family: str
    beak: float = field(kw_only=True)
    tail: float = 0.1
    eye: Colour | None = None
    crown: Colour | None = None
    throat: Colour | None = None
    wing_bar: Colour | None = None
    tail_band: Colour | None = None


FAMILIES: dict[str, Family] = {
    "finch": Family(
        back=(142, 92, 62),
        belly=(226, 158, 124),
        head=(112, 124, 148),
        wing=(92, 62, 48),
        bill=(228, 186, 120),
        legs=(120, 80, 70),
        body=(0.98, 0.7),
        posture=20,
        head_at=(0.40, -0.34),
        head_radius=0.29,
        wing_size=(0.78, 0.40),
        tail_size=(0.46, 0.24),
        bill_depth=(0.22, 0.03),
        leg_length=0.16,
        crest=0,
        perch="branch",
    ),
    "warbler": Family(
        back=(122, 140, 58),
        belly=(246, 220, 84),
        head=(196, 190, 70),
        wing=(84, 98, 56),
        bill=(70, 62, 54),
        legs=(110, 84, 60),
        body=(0.92, 0.52),
        posture=14,
        head_at=(0.42, -0.27),
        head_radius=0.27,
        wing_size=(0.74, 0.30),
        tail_size=(0.50, 0.20),
        bill_depth=(0.09, 0.02),
        leg_length=0.18,
        crest=0,
        perch="branch",
    ),
    "swallow": Family(
        back=(40, 66, 128),
        belly=(240, 226, 204),
        head=(46, 76, 146),
        wing=(30, 46, 92),
        bill=(40, 36, 40),
        legs=(70, 50, 50),
        body=(0.92, 0.46),
        posture=36,
        head_at=(0.34, -0.40),
        head_radius=0.25,
        wing_size=(1.0, 0.28),
        tail_size=(0.54, 0.50),
        bill_depth=(0.10, 0.02),
        leg_length=0.08,
        crest=0,
        perch="wire",
    ),
    "sandpiper": Family(
        back=(158, 140, 118),
        belly=(238, 232, 222),
        head=(178, 160, 136),
        wing=(98, 80, 66),
        bill=(226, 92, 44),
        legs=(206, 150, 60),
        body=(0.86, 0.50),
        posture=8,
        head_at=(0.22, -0.42),
        head_radius=0.22,
        wing_size=(0.74, 0.32),
        tail_size=(0.30, 0.16),
        bill_depth=(0.13, 0.06),
        leg_length=0.40,
        crest=0,
        perch="shore",
    ),
    "jay": Family(
        back=(84, 148, 208),
        belly=(222, 224, 230),
        head=(92, 160, 222),
        wing=(42, 78, 140),
        bill=(48, 48, 56),
        legs=(70, 66, 72),
        body=(0.90, 0.52),
        posture=30,
        head_at=(0.36, -0.36),
        head_radius=0.26,
        wing_size=(0.74, 0.34),
        tail_size=(0.62, 0.32),
        bill_depth=(0.13, 0.03),
        leg_length=0.18,
        crest=0.24,
        perch="branch",
    ),
    "duck": Family(
        back=(128, 108, 98),
        belly=(206, 198, 190),
        head=(34, 108, 84),
        wing=(104, 88, 80),
        bill=(238, 166, 40),
        legs=(232, 130, 40),
        body=(1.36, 0.60),
        posture=4,
        head_at=(0.50, -0.44),
        head_radius=0.25,
        wing_size=(0.90, 0.36),
        tail_size=(0.28, 0.14),
        bill_depth=(0.15, 0.11),
        leg_length=0.0,
        crest=0,
        perch="water",
    ),
}

SPECIES: tuple[Species, ...] = (
    Species("Common Finch", "finch", beak=0.22),
    Species("Ringed Finch", "finch", beak=0.22, eye=WHITE),
    Species("Barred Finch", "finch", beak=0.22, wing_bar=WHITE),
    Species("Meadow Warbler", "warbler", beak=0.19),
    Species("Capped Warbler", "warbler", beak=0.19, crown=BLACK),
    Species("Bibbed Warbler", "warbler", beak=0.19, throat=BLACK),
    Species("Barn Swallow", "swallow", beak=0.12, tail=-0.3),
    Species("Forked Swallow", "swallow", beak=0.12, tail=0.9),
    Species("Ruby Swallow", "swallow", beak=0.12, tail=-0.3, throat=RED),
    Species("Short-billed Sandpiper", "sandpiper", beak=0.16),
    Species("Long-billed Sandpiper", "sandpiper", beak=0.66),
    Species("Barred Sandpiper", "sandpiper", beak=0.16, wing_bar=WHITE),
    Species("Blue Jay", "jay", beak=0.2),
    Species("Banded Jay", "jay", beak=0.2, tail_band=YELLOW),
    Species("Barred Jay", "jay", beak=0.2, wing_bar=WHITE),
    Species("Lake Duck", "duck", beak=0.3),
    Species("Goggled Duck", "duck", beak=0.3, eye=YELLOW),
    Species("Bibbed Duck", "duck", beak=0.3, throat=WHITE),
)

_MARKS = tuple(f.name for f in fields(Species) if f.name not in ("name", "family"))


def species_at(index: int) -> Species:
    """Return the species of a class index.

    Args:
        index: Class index, from 0 to `len(SPECIES) - 1`.

    Raises:
        APINetError: If there is no such class.

    Example:
        >>> species_at(1).name
        'Ringed Finch'
    """
    if not 0 <= index < len(SPECIES):
        raise APINetError(
            f"synthetic_birds has no such class: species={index!r}; give 0 to "
            f"{len(SPECIES) - 1}."
        )
    return SPECIES[index]


def distinguishing_parts(species_a: int, species_b: int) -> tuple[str, ...]:
    """Name the parts that tell two species apart.

    Args:
        species_a: Class index.
        species_b: Class index.

    Returns:
        Keys of `Drawing.parts`: the one or two parts in which siblings differ,
        `("bird",)` for species of different families, nothing for a species and itself.

    Raises:
        APINetError: If there is no such class.

    Example:
        >>> distinguishing_parts(0, 1)
        ('eye',)
    """
    a, b = species_at(species_a), species_at(species_b)
    if a.family != b.family:
        return ("bird",)
    return tuple(mark for mark in _MARKS if getattr(a, mark) != getattr(b, mark))
