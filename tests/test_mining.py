import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import check_layer
from reference import mine

from keras_apinet.errors import APINetError
from keras_apinet.layers import PairMiner


def mined(miner, features, labels):
    return tuple(ops.convert_to_numpy(x) for x in miner(features, labels))


@pytest.mark.parametrize("strategy", ["nearest", "farthest"])
@pytest.mark.parametrize("n", [2, 7, 40])
def test_pairs_equal_the_paper(rng, strategy, n):
    features = rng.normal(size=(n, 16)).astype("float32")
    labels = rng.integers(0, max(2, n // 4), n)
    ours = mined(PairMiner(strategy), features, labels)
    for mine_, theirs in zip(ours, mine(features, labels, strategy, strategy)):
        np.testing.assert_array_equal(mine_, theirs)
    assert [str(x.dtype) for x in ours] == ["int32", "int32", "bool"]


@pytest.mark.parametrize("strategy", ["nearest", "farthest"])
def test_partners_by_angle_do_not_look_at_lengths(rng, strategy):
    features = rng.normal(size=(30, 8)) * rng.uniform(0.1, 10, size=(30, 1))
    labels = np.arange(30) % 5
    ours = mined(PairMiner(strategy, distance="cosine"), features, labels)
    theirs = mine(features, labels, strategy, strategy, "cosine")
    np.testing.assert_array_equal(ours[1], theirs[1])
    by_length = mine(features, labels, strategy, strategy)
    assert (theirs[1] != by_length[1]).any()


def test_intra_and_inter_have_their_own_strategy(rng):
    features, labels = rng.normal(size=(12, 4)), np.repeat([0, 1, 2], 4)
    ours = mined(PairMiner(("farthest", "nearest")), features, labels)
    theirs = mine(features, labels, "farthest", "nearest")
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_one_hot_and_column_labels_are_the_same_classes(rng):
    features, labels = rng.normal(size=(8, 4)), np.array([0, 0, 1, 1, 2, 2, 0, 1])
    expected = mined(PairMiner(), features, labels)
    for form in (np.eye(3, dtype="float32")[labels], labels[:, None]):
        for a, b in zip(expected, mined(PairMiner(), features, form)):
            np.testing.assert_array_equal(a, b)


def test_equal_distances_go_to_the_lowest_index():
    # Corners of a square and its centre, class 0; four images of class 1 on one spot.
    features = np.array(
        [[1, 1], [1, -1], [-1, 1], [-1, -1], [0, 0], [4, 0], [4, 0], [4, 0]], "float32"
    )
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    _, partners, valid = mined(PairMiner(), features, labels)
    # Intra: every corner's nearest is the centre; the centre's four corners tie.
    assert partners[:8].tolist() == [4, 4, 4, 4, 0, 6, 5, 5]
    # Inter: images 5 to 7 tie for all of class 0; corners 0 and 1 tie for class 1.
    assert partners[8:].tolist() == [5, 5, 5, 5, 5, 0, 0, 0]
    assert valid.all()


def test_no_partner_is_marked_and_pairs_with_itself():
    features, labels = np.array([[0.0], [1.0], [5.0]]), np.array([0, 0, 1])
    anchors, partners, valid = mined(PairMiner(), features, labels)
    assert anchors.tolist() == [0, 1, 2, 0, 1, 2]
    assert partners.tolist() == [1, 0, 2, 2, 2, 1]
    assert valid.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3], [False, False]),
        ([0, 0, 0], [True] * 3 + [False] * 3),
        ([0, 1, 2], [False] * 3 + [True] * 3),
    ],
)
def test_one_image_one_class_all_different(labels, expected):
    features = np.arange(len(labels), dtype="float32")[:, None]
    anchors, partners, valid = mined(PairMiner(), features, np.array(labels))
    assert valid.tolist() == expected
    assert (partners[~valid] == anchors[~valid]).all()


def test_large_half_precision_features_do_not_overflow():
    # Squared distances of 1e10 are infinite in float16.
    features = np.array([[0.0], [6e4], [5e4], [-6e4]], "float16")
    _, partners, valid = mined(
        PairMiner(dtype="float16"), features, np.array([0, 0, 1, 1])
    )
    assert partners.tolist() == [1, 0, 3, 2, 2, 2, 1, 0]
    assert valid.all()


def test_an_image_that_is_not_finite_is_nobodys_partner():
    features = np.array([[0.0], [np.nan], [2.0], [3.0], [np.inf]], "float32")
    _, partners, valid = mined(PairMiner(), features, np.array([0, 0, 0, 1, 1]))
    assert valid.tolist() == [True, False, True, False, False] + [
        True,
        False,
        True,
        True,
        False,
    ]
    assert not np.isin(partners[valid], [1, 4]).any()


def test_several_partners_are_the_next_nearest():
    features = np.array([[0.0], [1.0], [3.0], [10.0], [12.0]], "float32")
    labels = np.array([0, 0, 0, 1, 1])
    anchors, partners, valid = mined(PairMiner(num_partners=(2, 1)), features, labels)
    assert anchors.tolist() == [0, 1, 2, 3, 4] * 3
    assert partners[:5].tolist() == [1, 0, 1, 4, 3]
    assert partners[5:10].tolist() == [2, 2, 0, 3, 4]
    assert valid[5:10].tolist() == [True, True, True, False, False]
    assert partners[10:].tolist() == [3, 3, 3, 2, 2]


def test_pairs_of_one_kind_only():
    features, labels = np.array([[0.0], [1.0], [5.0]]), np.array([0, 0, 1])
    assert mined(PairMiner(num_partners=(1, 0)), features, labels)[1].tolist() == [
        1,
        0,
        2,
    ]
    assert mined(PairMiner(num_partners=(0, 1)), features, labels)[1].tolist() == [
        2,
        2,
        1,
    ]


def test_random_partners_are_candidates_and_differ():
    labels = np.repeat(np.arange(5), 8)
    features = np.zeros((40, 2), "float32")
    miner = PairMiner("random", num_partners=2, seed=3)
    first, second = mined(miner, features, labels), mined(miner, features, labels)
    assert (first[1] != second[1]).any()
    for anchors, partners, valid in (first, second):
        assert valid.all()
        same = labels[anchors] == labels[partners]
        assert same[:80].all()
        assert not same[80:].any()
        assert (anchors != partners).all()
        assert (partners[:40] != partners[40:80]).all()
    again = mined(PairMiner("random", num_partners=2, seed=3), features, labels)
    np.testing.assert_array_equal(again[1], first[1])


def test_the_choice_carries_no_gradient(gradient):
    features = np.random.default_rng(1).normal(size=(6, 3)).astype("float32")
    labels = np.array([0, 0, 1, 1, 2, 2])

    def total(x):
        anchors, partners, _ = PairMiner()(x, labels)
        a = ops.take(x, anchors, axis=0)
        b = ops.take(x, partners, axis=0)
        return ops.sum(a * b)

    _, partners, _ = mine(features, labels)
    expected = np.zeros_like(features)
    for anchor, partner in zip(np.tile(np.arange(6), 2), partners):
        expected[anchor] += features[partner]
        expected[partner] += features[anchor]
    np.testing.assert_allclose(gradient(total, features), expected, atol=1e-5)


def test_layer_contract(rng, tmp_path):
    features = rng.normal(size=(6, 4)).astype("float32")
    labels = np.array([0, 0, 1, 1, 2, 2], "int32")
    check_layer(
        PairMiner(("nearest", "farthest"), (2, 1), distance="cosine"),
        (features, labels),
        tmp_path,
    )


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"mining": "closest"}, "closest"),
        ({"mining": ("nearest", "far")}, "far"),
        ({"num_partners": 0}, "0"),
        ({"num_partners": (1, -2)}, "-2"),
        ({"num_partners": 1.5}, "1.5"),
        ({"distance": "manhattan"}, "manhattan"),
    ],
)
def test_bad_options_are_named(options, value):
    with pytest.raises(APINetError, match=value):
        PairMiner(**options)


@pytest.mark.parametrize(
    ("features", "labels", "value"),
    [
        (np.zeros((4,)), np.zeros(4, "int32"), r"\(4,\)"),
        (np.zeros((4, 2, 2)), np.zeros(4, "int32"), r"\(4, 2, 2\)"),
        (np.zeros((4, 2)), np.zeros((4, 2, 2)), r"\(4, 2, 2\)"),
        (np.zeros((4, 2)), np.zeros(3, "int32"), "4 features but 3 labels"),
        (np.zeros((0, 2)), np.zeros(0, "int32"), r"at least one image; got .*\(0, 2\)"),
    ],
)
def test_bad_shapes_are_named(features, labels, value):
    with pytest.raises(APINetError, match=value):
        PairMiner()(features, labels)


def test_nothing_is_trained():
    miner = PairMiner()
    miner(np.zeros((2, 2)), np.array([0, 1]))
    assert miner.trainable_weights == []
    assert isinstance(miner, keras.layers.Layer)
