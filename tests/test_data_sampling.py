"""The promises of balanced batches, checked on the indices that are drawn."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from keras_apinet.data import BatchPlan
from keras_apinet.errors import APINetError

pytestmark = pytest.mark.one_backend

EPOCHS = 5
SAMPLING = ("uniform", "sqrt", "proportional")


@st.composite
def plans(draw):
    counts = draw(st.lists(st.integers(1, 25), min_size=1, max_size=20))
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    np.random.default_rng(draw(st.integers(0, 9))).shuffle(labels)
    options = {
        "classes_per_batch": draw(st.integers(1, len(counts))),
        "images_per_class": draw(st.integers(1, 6)),
        "seed": draw(st.integers(0, 2**40)),
        "epoch_steps": draw(st.none() | st.integers(1, 12)),
        "class_sampling": draw(st.sampled_from(SAMPLING)),
        "num_replicas": draw(st.sampled_from([1, 2, 3, 4, 6])),
    }
    return labels, options


def divisors(number):
    return [n for n in range(1, number + 1) if number % n == 0]


@settings(max_examples=80, deadline=None)
@given(plans())
def test_every_promise_holds_for_any_histogram(case):
    labels, options = case
    plan = BatchPlan(labels, **options)
    again = BatchPlan(labels, **options)
    p, k = options["classes_per_batch"], options["images_per_class"]
    replicas = options["num_replicas"]
    size = {c: np.count_nonzero(labels == c) for c in np.unique(labels)}
    used = np.zeros(len(labels), int)
    drawn = {}
    for epoch in range(EPOCHS):
        for step in range(plan.epoch_steps):
            batch = plan.indices(epoch, step)
            drawn[epoch, step] = batch
            blocks = batch.reshape(replicas, p, k)
            for processes in divisors(replicas):
                parts = [
                    plan.indices(epoch, step, i, processes) for i in range(processes)
                ]
                assert len({len(part) for part in parts}) == 1
                np.testing.assert_array_equal(np.concatenate(parts), batch)
            classes = labels[blocks]
            assert (classes == classes[..., :1]).all(), "K images of one class each"
            for block in classes[..., 0]:
                assert len(set(block)) == p, "no class twice in a block"
            if replicas * p <= len(size):
                assert len(set(classes[..., 0].ravel())) == replicas * p
            for row, c in zip(blocks.reshape(-1, k), classes[..., 0].ravel()):
                _, times = np.unique(row, return_counts=True)
                assert times.max() <= -(-k // size[c]), "repeats only if too few"
                assert len(times) == min(k, size[c])
                np.add.at(used, row, 1)
                mine = used[labels == c]
                assert np.ptp(mine) <= 1, "all used before any is used again"
    # Any step can be asked for first, and of another plan.
    for epoch, step in reversed(drawn):
        np.testing.assert_array_equal(again.indices(epoch, step), drawn[epoch, step])


@settings(max_examples=40, deadline=None)
@given(plans())
def test_classes_appear_as_often_as_their_share_says(case):
    """Shares: weights scaled to the slots of an epoch, none above one per column."""
    labels, options = case
    plan = BatchPlan(labels, **options)
    _, counts = np.unique(labels, return_counts=True)
    weights = (
        counts
        ** {"uniform": 0.0, "sqrt": 0.5, "proportional": 1.0}[options["class_sampling"]]
    )
    p, k, r = options["classes_per_batch"], options["images_per_class"], None
    r = options["num_replicas"]
    columns = plan.epoch_steps * (1 if r * p <= len(counts) else r)
    slots = plan.epoch_steps * p * r
    low, high = 0.0, slots * columns / weights.min()
    for _ in range(200):  # the scale at which min(weight * scale, columns) adds up
        middle = (low + high) / 2
        if np.minimum(weights * middle, columns).sum() < slots:
            low = middle
        else:
            high = middle
    share = np.minimum(weights * high, columns)
    for epoch in range(EPOCHS):
        drawn = np.concatenate(
            [plan.indices(epoch, s) for s in range(plan.epoch_steps)]
        )
        seen = np.bincount(
            np.searchsorted(np.unique(labels), labels[drawn]), minlength=len(counts)
        )
        assert (np.abs(seen / k - share) < 1 + 1e-6).all()


def test_blocks_of_all_processes_make_the_batch_of_one():
    """4 x 2 classes in one plan; each process slices its own part of the same batch."""
    labels = np.repeat(np.arange(10), 7)
    plan = BatchPlan(labels, 2, 3, seed=5, num_replicas=4)
    whole = plan.indices(0, 1)
    assert len(whole) == 24
    assert len(set(whole)) == 24
    assert len(set(labels[whole])) == 8


def test_parts_that_do_not_divide_the_blocks_are_named():
    plan = BatchPlan(np.repeat(np.arange(4), 3), 2, 2, num_replicas=2)
    for part, parts in ((0, 3), (2, 2), (-1, 2), (0, 0)):
        with pytest.raises(APINetError, match="num_replicas=2 blocks"):
            plan.indices(0, 0, part, parts)


def test_too_few_classes_are_told_and_handled():
    with pytest.warns(UserWarning, match="classes_per_batch=5 is more than the 2"):
        plan = BatchPlan([0, 0, 1], 5, 2)
    assert len(plan.indices(0, 0)) == 4


def test_steps_beyond_an_epoch_run_on_into_the_next():
    plan = BatchPlan(np.repeat(np.arange(6), 4), 2, 2, epoch_steps=3)
    np.testing.assert_array_equal(plan.indices(0, 7), plan.indices(2, 1))


def test_neighbours_change_from_pass_to_pass():
    """With 8 images and hands of 3, a fixed order would allow only 8 hands."""
    plan = BatchPlan(np.zeros(8, int), 1, 3, epoch_steps=80)
    hands = {tuple(sorted(plan.indices(0, s))) for s in range(80)}
    assert len(hands) > 30


def test_a_million_labels_are_one_array_each():
    labels = np.random.default_rng(0).integers(0, 5000, 1_000_000)
    plan = BatchPlan(labels, 30, 4)
    assert len(np.unique(labels[plan.indices(3, 100)])) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes_per_batch": 0}, "classes_per_batch=0"),
        ({"images_per_class": 0}, "images_per_class=0"),
        ({"epoch_steps": 0}, "epoch_steps=0"),
        ({"num_replicas": 0}, "num_replicas=0"),
        ({"class_sampling": "rare"}, "class_sampling='rare'"),
        ({"labels": []}, "no images to draw"),
    ],
)
def test_wrong_options_are_named(options, message):
    given_ = {"labels": [0, 1], "classes_per_batch": 1, "images_per_class": 1}
    with pytest.raises(APINetError, match=message):
        BatchPlan(**(given_ | options))
