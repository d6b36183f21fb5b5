"""The drawn birds: alike where they should be, different where they say they are."""

import hashlib
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_apinet.data.birds import SPECIES, distinguishing_parts, draw
from keras_apinet.errors import APINetError

pytestmark = pytest.mark.one_backend

SIBLINGS = [
    (a, b)
    for a, b in itertools.combinations(range(len(SPECIES)), 2)
    if SPECIES[a].family == SPECIES[b].family
]
SEEDS = range(12)


@pytest.fixture(scope="module")
def drawings():
    return {(s, seed): draw(s, seed) for s in range(len(SPECIES)) for seed in SEEDS}


def difference(a, b):
    """Largest difference of any colour channel, per pixel."""
    return np.abs(a.pixels.astype(int) - b.pixels.astype(int)).max(axis=2)


def test_species_are_many_and_named_apart():
    assert len(SPECIES) >= 16
    assert len({species.name for species in SPECIES}) == len(SPECIES)
    families = {species.family for species in SPECIES}
    assert all(sum(s.family == f for s in SPECIES) >= 3 for f in families)


def test_siblings_differ_in_one_or_two_parts(drawings):
    for a, b in SIBLINGS:
        parts = distinguishing_parts(a, b)
        assert len(parts) in (1, 2)
        assert parts == distinguishing_parts(b, a)
        assert set(parts) <= set(drawings[a, 0].parts) - {"bird"}


def test_distinguishing_parts_by_name():
    index = {species.name: i for i, species in enumerate(SPECIES)}

    def parts(a, b):
        return set(distinguishing_parts(index[a], index[b]))

    assert parts("Common Finch", "Ringed Finch") == {"eye"}
    assert parts("Ringed Finch", "Barred Finch") == {"eye", "wing_bar"}
    assert parts("Barn Swallow", "Forked Swallow") == {"tail"}
    assert parts("Short-billed Sandpiper", "Long-billed Sandpiper") == {"beak"}
    assert parts("Meadow Warbler", "Capped Warbler") == {"crown"}
    assert parts("Common Finch", "Lake Duck") == {"bird"}
    assert parts("Common Finch", "Common Finch") == set()


@pytest.mark.parametrize("size", [32, 96, 130])
def test_picture_and_boxes_fit_the_size(size):
    for species in range(len(SPECIES)):
        drawing = draw(species, seed=5, size=size)
        assert drawing.pixels.shape == (size, size, 3)
        assert drawing.pixels.dtype == np.uint8
        for left, top, right, bottom in drawing.parts.values():
            assert 0 <= left < right <= size
            assert 0 <= top < bottom <= size


def test_boxes_scale_with_the_picture():
    small, large = draw(7, seed=3, size=96), draw(7, seed=3, size=192)
    for part, box in small.parts.items():
        np.testing.assert_allclose(np.array(large.parts[part]) / 2, box, atol=0.51)


def test_every_part_lies_within_the_bird(drawings):
    for drawing in drawings.values():
        left, top, right, bottom = drawing.parts["bird"]
        for box in drawing.parts.values():
            # Marks that this species does not bear may reach past its outline.
            assert box[0] >= left - 4
            assert box[1] >= top - 4
            assert box[2] <= right + 4
            assert box[3] <= bottom + 4


def test_siblings_of_one_seed_differ_only_in_their_boxes(drawings):
    for (a, b), seed in itertools.product(SIBLINGS, SEEDS):
        one, other = drawings[a, seed], drawings[b, seed]
        outside = np.ones(one.pixels.shape[:2], bool)
        for part, drawing in itertools.product(
            distinguishing_parts(a, b), (one, other)
        ):
            left, top, right, bottom = np.rint(drawing.parts[part]).astype(int)
            outside[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
        assert difference(one, other)[outside].max() <= 4, (a, b, seed)


def test_each_distinguishing_part_can_be_seen(drawings):
    """A part of about 6 x 6 px differs clearly, in every picture."""
    for (a, b), seed in itertools.product(SIBLINGS, SEEDS):
        one, other = drawings[a, seed], drawings[b, seed]
        clearly = difference(one, other) > 20
        for part in distinguishing_parts(a, b):
            boxes = np.array([one.parts[part], other.parts[part]])
            left, top = np.floor(boxes.min(axis=0)[:2]).astype(int)
            right, bottom = np.ceil(boxes.max(axis=0)[2:]).astype(int)
            seen = clearly[top:bottom, left:right].sum()
            assert seen >= 30, (SPECIES[a].name, SPECIES[b].name, part, seed, seen)


def test_a_species_varies_more_than_its_family_does(drawings):
    pixels = np.array(
        [[drawings[s, seed].pixels for seed in SEEDS] for s in range(len(SPECIES))],
        np.float32,
    )
    within = np.abs(pixels - np.roll(pixels, 1, axis=1)).mean()
    between = np.mean([np.abs(pixels[a] - pixels[b]).mean() for a, b in SIBLINGS])
    assert within > 10 * between


def test_poses_places_and_light_vary():
    seeds = range(40)
    some = [draw(0, seed) for seed in seeds]
    boxes = np.array([drawing.parts["bird"] for drawing in some])
    eyes = np.array([drawing.parts["eye"] for drawing in some])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    facing_right = (eyes[:, 0] + eyes[:, 2]) / 2 > middles[:, 0]
    assert 8 <= facing_right.sum() <= 32
    assert np.ptp(boxes[:, 2] - boxes[:, 0]) > 10
    assert np.ptp(middles, axis=0).min() > 8
    brightness = [drawing.pixels.mean() for drawing in some]
    assert np.ptp(brightness) > 60


def test_the_same_in_another_process_and_another_order():
    jobs = [(0, 0, 96), (10, 7, 96), (17, 2**40, 64)]
    here = []
    for job in jobs:
        drawing = draw(*job)
        data = drawing.pixels.tobytes() + repr(drawing.parts).encode()
        here.append(hashlib.sha256(data).hexdigest())
    script = (
        "import hashlib, sys\n"
        "from keras_apinet.data.birds import draw\n"
        "assert 'PIL' not in sys.modules\n"
        f"for job in reversed({jobs}):\n"
        "    drawing = draw(*job)\n"
        "    data = drawing.pixels.tobytes() + repr(drawing.parts).encode()\n"
        "    print(hashlib.sha256(data).hexdigest())\n"
    )
    command = [sys.executable, "-c", script]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    assert there.stdout.split() == here[::-1]
    assert len(set(here)) == len(jobs)


def test_pictures_are_those_of_before():
    """One picture of each species, at three sizes, as drawn by the first version.

    What is recorded are boxes and mean colours (of the picture and within each part's
    box), not bytes: another NumPy or Pillow may round or smooth an edge otherwise.
    """
    recorded = json.loads(Path(__file__).with_name("birds.json").read_text("utf-8"))
    assert [row["species"] for row in recorded] == list(range(len(SPECIES)))
    for row in recorded:
        drawing = draw(row["species"], row["seed"], row["size"])
        mean = drawing.pixels.mean(axis=(0, 1))
        np.testing.assert_allclose(mean, row["picture"], atol=0.3)
        assert list(drawing.parts) == list(row["parts"])
        for part, (*box, red, green, blue) in row["parts"].items():
            np.testing.assert_allclose(drawing.parts[part], box, atol=0.34)
            left, top, right, bottom = box
            inside = drawing.pixels[
                int(top) : math.ceil(bottom), int(left) : math.ceil(right)
            ]
            mean = inside.mean(axis=(0, 1))
            np.testing.assert_allclose(mean, [red, green, blue], atol=2.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"species": len(SPECIES), "seed": 0}, f"species={len(SPECIES)}"),
        ({"species": -1, "seed": 0}, "species=-1"),
        ({"species": 0, "seed": -3}, "seed=-3"),
        ({"species": 0, "seed": 0, "size": 8}, "size=8"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(APINetError, match=message):
        draw(**arguments)
