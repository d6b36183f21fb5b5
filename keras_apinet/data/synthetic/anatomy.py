"""The shapes of a bird, in its own units, from its species and its pose.

The bird faces right, x points right and y down from the middle of its body, and 2
units are about its length. Nothing here knows of pixels.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.synthetic.species import BLACK, WHITE, Colour, Family, Species

Points = NDArray[np.float64]

# Along every curve.
_STEPS = np.linspace(0, 1, 25)


@dataclass(frozen=True)
class Pose:
    """How one bird sits: nothing in it depends on the species.

    Args:
        head_tilt: Degrees by which the beak is raised.
        turn: How far the head is turned towards us, 0 (profile) to 1.
        wing_lift: Degrees by which the wing's tip is raised.
        tail_lift: Degrees by which the tail's tip is raised.
        plump: Factor on the body's height.
        mark_size: Factor on the size of the marks.
    """

    head_tilt: float
    turn: float
    wing_lift: float
    tail_lift: float
    plump: float
    mark_size: float

    @classmethod
    def sample(cls, rng: np.random.Generator) -> "Pose":
        """Draw a pose."""
        low = (-20.0, 0.0, -8.0, -14.0, 0.9, 0.9)
        high = (18.0, 1.0, 20.0, 14.0, 1.1, 1.15)
        return cls(*rng.uniform(low, high).tolist())


@dataclass
class Bird:
    """A laid-out bird: what to paint, and where its parts are.

    Args:
        strokes: Outlines `[n, 2]` with their colours, from back to front.
        parts: Outline of each part, painted or not.
    """

    strokes: list[tuple[Points, Colour]] = field(default_factory=list)
    parts: dict[str, Points] = field(default_factory=dict)

    def paint(self, outline: Points, colour: Colour) -> None:
        """Add a shape in front of those before it."""
        self.strokes.append((outline, colour))

    def mark(self, part: str, outline: Points, colour: Colour | None) -> None:
        """Note where a part is, and paint it if it has a colour."""
        self.parts[part] = outline
        if colour is not None:
            self.paint(outline, colour)


def lay_out(family: Family, species: Species, pose: Pose) -> Bird:
    """Lay out one bird.

    Args:
        family: Build and plumage.
        species: Marks.
        pose: How it sits.

    Returns:
        The bird. Siblings in the same pose are equal but for the parts in which
        their species differ.
    """
    bird = Bird()
    _add_tail(bird, family, species, pose)
    _add_body(bird, family, pose)
    _add_head(bird, family, species, pose)
    _add_wing(bird, family, species, pose)
    bird.parts["bird"] = np.concatenate([outline for outline, _ in bird.strokes])
    return bird


def turned(points: Points, degrees: float, pivot: tuple[float, float]) -> Points:
    """Turn points about a pivot, counter-clockwise as seen."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.asarray((points - pivot) @ np.array([[c, -s], [s, c]]) + pivot)


def ellipse(
    middle: tuple[float, float],
    radii: tuple[float, float],
    start: float = 0.0,
    stop: float = 360.0,
) -> Points:
    """Points on an ellipse; degrees run clockwise as seen, from the right."""
    t = np.radians(start + (stop - start) * _STEPS)
    return np.stack([np.cos(t), np.sin(t)], axis=1) * radii + middle


def rod(a: tuple[float, float], ra: float, b: tuple[float, float], rb: float) -> Points:
    """Outline of two discs and of all that lies between them."""
    heading = math.degrees(math.atan2(b[1] - a[1], b[0] - a[0]))
    lean = math.degrees(math.acos(max(-1.0, min(1.0, (ra - rb) / math.dist(a, b)))))
    return np.concatenate(
        [
            ellipse(a, (ra, ra), heading + lean, heading + 360 - lean),
            ellipse(b, (rb, rb), heading - lean, heading + lean),
        ]
    )


def shade(colour: Colour, factor: float) -> Colour:
    """Darken a colour (`factor` below 1) or lighten it."""
    r, g, b = (min(255, round(channel * factor)) for channel in colour)
    return r, g, b


def _add_tail(bird: Bird, family: Family, species: Species, pose: Pose) -> None:
    length, width = family.tail_size
    root = (-0.40 * family.body[0], 0.0)
    tip = root[0] - length

    def band(start: float, fork: float) -> Points:
        """From `start` of the length to the tip, forked by a share of the length."""
        half = 0.5 * width * (0.45 + 0.55 * start)
        x = root[0] - start * length
        notch = min(x, tip + fork * length)
        outline = [(x, -half), (tip, -width / 2), (notch, 0), (tip, width / 2)]
        points = turned(np.array([*outline, (x, half)]), -pose.tail_lift, root)
        return turned(points, family.posture, (0, 0))

    # The rump hides the gap that a raised tail would leave.
    rump = rod(root, width / 4, (0, 0), 0.1)
    bird.paint(turned(rump, family.posture, (0, 0)), family.back)
    bird.mark("tail", band(0, species.tail), family.back)
    bird.mark("tail_band", band(0.58, species.tail), species.tail_band)


def _add_body(bird: Bird, family: Family, pose: Pose) -> None:
    length, height = family.body[0] / 2, family.body[1] / 2 * pose.plump

    def egg(start: float, stop: float) -> Points:
        t = np.radians(start + (stop - start) * _STEPS)
        y = height * np.sin(t) * (1 + 0.16 * np.cos(t))
        points = np.stack([length * np.cos(t), y], axis=1)
        return turned(points, family.posture, (0, 0))

    bird.paint(egg(0, 360), family.back)
    bird.paint(egg(-28, 168), family.belly)


def _add_wing(bird: Bird, family: Family, species: Species, pose: Pose) -> None:
    length, width = family.wing_size
    shoulder = (0.24 * family.body[0], -0.12 * family.body[1])

    def across(start: float, stop: float, slant: float = 0.0) -> Points:
        """The piece between two shares of the wing's length."""
        u = start + (stop - start) * _STEPS
        half = width * 0.86 * u**0.45 * (1 - u) ** 0.75
        x = shoulder[0] - length * u
        upper = np.stack([x - slant * half, shoulder[1] - 0.8 * half], axis=1)
        lower = np.stack([x + slant * half, shoulder[1] + 1.0 * half], axis=1)
        points = np.concatenate([upper, lower[::-1]])
        points = turned(points, -pose.wing_lift, shoulder)
        return turned(points, family.posture, (0, 0))

    bird.mark("wing", across(0, 1), family.wing)
    bird.paint(across(0.52, 1), shade(family.wing, 0.8))
    middle, breadth = 0.36, 0.085 * pose.mark_size * 0.78 / length
    bar = across(middle - breadth, middle + breadth, slant=0.25)
    bird.mark("wing_bar", bar, species.wing_bar)


def _add_head(bird: Bird, family: Family, species: Species, pose: Pose) -> None:
    (x, y), r = family.head_at, family.head_radius
    size = pose.mark_size

    def nod(points: Points) -> Points:
        return turned(points, pose.head_tilt, (x, y))

    neck = turned(np.array([(0.26 * family.body[0], 0.0)]), family.posture, (0, 0))
    root = (float(neck[0, 0]), float(neck[0, 1]))
    bird.paint(rod((x, y), 0.96 * r, root, 0.3 * family.body[1]), family.head)

    chin, breast = (x + 0.45 * r, y + 0.62 * r), (x + 0.15 * r, y + 1.15 * r)
    bib = rod(chin, 0.44 * r * size, breast, 0.6 * r * size)
    bird.mark("throat", nod(bib), species.throat)

    if family.crest:
        top = (x - 1.1 * r - 0.6 * family.crest, y - 0.6 * r - family.crest)
        tuft = np.array([(x - 0.1 * r, y - 0.9 * r), top, (x - 0.95 * r, y)])
        bird.paint(nod(tuft), family.head)
    length = species.beak * (1 - 0.25 * pose.turn)
    thick, thin = family.bill_depth
    gape = (x + 0.86 * r, y + 0.14 * r)
    tip = (gape[0] + length, gape[1] + 0.06 * length)
    bird.mark("beak", nod(rod(gape, thick / 2, tip, thin / 2)), family.bill)
    bird.paint(nod(ellipse((x, y), (r, r))), family.head)

    hem = ellipse((x, y + 0.05 * r), (0.8 * r, 0.45 * r), 330, 196)
    cap = np.concatenate([ellipse((x, y), (r, r), 196, 330), hem])
    bird.mark("crown", nod(cap), species.crown)

    ex, ey = x + (0.36 - 0.22 * pose.turn) * r, y - 0.06 * r
    ring = 0.125 * size
    bird.mark("eye", nod(ellipse((ex, ey), (ring, ring))), species.eye)
    bird.paint(nod(ellipse((ex, ey), (0.066, 0.066))), BLACK)
    bird.paint(nod(ellipse((ex + 0.02, ey - 0.024), (0.022, 0.022))), WHITE)
