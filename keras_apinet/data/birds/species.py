"""The families of invented birds, and what tells siblings apart."""

from dataclasses import dataclass, fields
from typing import NamedTuple

from keras_apinet.errors import APINetError

Colour = tuple[int, int, int]

WHITE, BLACK = (250, 246, 236), (28, 26, 30)
RED, YELLOW = (206, 44, 40), (255, 208, 46)


class Family(NamedTuple):
    """What siblings share: plumage, build and where they sit.

    Lengths are in units of half the bird's length (beak to tail is about 2), with the
    bird facing right, x to the right and y down from the middle of its body.
    """

    back: Colour  # and tail
    belly: Colour
    head: Colour
    wing: Colour
    bill: Colour
    legs: Colour
    body: tuple[float, float]  # length and height
    posture: float  # degrees by which the body is raised in front
    head_at: tuple[float, float]
    head_radius: float
    wing_size: tuple[float, float]  # length and width of the folded wing
    tail_size: tuple[float, float]  # length, and width at the tip
    bill_depth: tuple[float, float]  # at the root and at the tip
    leg_length: float
    crest: float  # height on the nape; 0 for none
    perch: str  # "branch", "wire", "shore" or "water"


@dataclass(frozen=True)
class Species:
    """One class of `synthetic_birds`: name, key into `FAMILIES`, and its own marks.

    Every other field is a part of the bird: the length of its beak, in units of half
    the bird's length; how deep the tail is forked, as a share of its length (below 0
    it is a wedge); and the colours of the ring around the eye, the cap, the bib, the
    bar across the wing and the end of the tail, `None` for no such mark.
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


# fmt: off
FAMILIES = {
    "finch": Family(
        (142, 92, 62), (226, 158, 124), (112, 124, 148),
        (92, 62, 48), (228, 186, 120), (120, 80, 70),
        (0.98, 0.70), 20, (0.40, -0.34), 0.29,
        (0.78, 0.40), (0.46, 0.24), (0.22, 0.03), 0.16, 0, "branch"),
    "warbler": Family(
        (122, 140, 58), (246, 220, 84), (196, 190, 70),
        (84, 98, 56), (70, 62, 54), (110, 84, 60),
        (0.92, 0.52), 14, (0.42, -0.27), 0.27,
        (0.74, 0.30), (0.50, 0.20), (0.09, 0.02), 0.18, 0, "branch"),
    "swallow": Family(
        (40, 66, 128), (240, 226, 204), (46, 76, 146),
        (30, 46, 92), (40, 36, 40), (70, 50, 50),
        (0.92, 0.46), 36, (0.34, -0.40), 0.25,
        (1.00, 0.28), (0.54, 0.50), (0.10, 0.02), 0.08, 0, "wire"),
    "sandpiper": Family(
        (158, 140, 118), (238, 232, 222), (178, 160, 136),
        (98, 80, 66), (226, 92, 44), (206, 150, 60),
        (0.86, 0.50), 8, (0.22, -0.42), 0.22,
        (0.74, 0.32), (0.30, 0.16), (0.13, 0.06), 0.40, 0, "shore"),
    "jay": Family(
        (84, 148, 208), (222, 224, 230), (92, 160, 222),
        (42, 78, 140), (48, 48, 56), (70, 66, 72),
        (0.90, 0.52), 30, (0.36, -0.36), 0.26,
        (0.74, 0.34), (0.62, 0.32), (0.13, 0.03), 0.18, 0.24, "branch"),
    "duck": Family(
        (128, 108, 98), (206, 198, 190), (34, 108, 84),
        (104, 88, 80), (238, 166, 40), (232, 130, 40),
        (1.36, 0.60), 4, (0.50, -0.44), 0.25,
        (0.90, 0.36), (0.28, 0.14), (0.15, 0.11), 0, 0, "water"),
}
# fmt: on

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


def species_at(index: int) -> Species:
    """The species of a class index; raises `APINetError` if there is none."""
    if 0 <= index < len(SPECIES):
        return SPECIES[index]
    raise APINetError(
        f"synthetic_birds has no such class: species={index!r}; give 0 to "
        f"{len(SPECIES) - 1}."
    )


def distinguishing_parts(species_a: int, species_b: int) -> tuple[str, ...]:
    """Names the parts that tell two species, given by class index, apart.

    Returns:
        Keys of `Drawing.parts`: the one or two parts in which siblings differ,
        `("bird",)` across families, nothing for a species and itself.

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
