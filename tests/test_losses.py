import keras
import numpy as np
import pytest
from keras import ops
from reference import numeric_gradient, pairwise_loss

from keras_apinet.errors import APINetError
from keras_apinet.losses import PairwiseLoss


def value(loss, *args, **kwargs):
    return float(ops.convert_to_numpy(loss(*args, **kwargs)))


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_loss_equals_the_paper(rng, margin, weight):
    logits = rng.normal(size=(10, 2, 4)).astype("float32")
    labels = rng.integers(0, 4, 10)
    expected, _, _ = pairwise_loss(
        labels, logits[:, 0], logits[:, 1], margin=margin, ranking_weight=weight
    )
    assert value(PairwiseLoss(margin, weight), labels, logits) == pytest.approx(
        expected, abs=1e-5
    )


def test_parts_equal_the_paper(rng):
    logits, labels = rng.normal(size=(7, 2, 3)), rng.integers(0, 3, 7)
    cross, ranking = PairwiseLoss().terms(labels, logits)
    _, expected_cross, expected_ranking = pairwise_loss(
        labels, logits[:, 0], logits[:, 1]
    )
    assert ops.convert_to_numpy(cross).mean() == pytest.approx(expected_cross, abs=1e-5)
    assert ops.convert_to_numpy(ranking).mean() == pytest.approx(
        expected_ranking, abs=1e-5
    )


def test_gradient_equals_the_paper(rng, gradient):
    logits = rng.normal(size=(5, 2, 3)).astype("float32")
    labels = rng.integers(0, 3, 5)
    ours = gradient(lambda z: PairwiseLoss(0.2)(labels, z), logits)
    theirs = numeric_gradient(
        lambda z: pairwise_loss(labels, z[:, 0], z[:, 1], margin=0.2)[0], logits
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_same_scores_leave_the_margin():
    """Equal self and other: log 2 of cross-entropy, and a ranking of the margin."""
    logits = np.zeros((3, 2, 2), "float32")
    assert value(PairwiseLoss(0.05), np.array([0, 1, 0]), logits) == pytest.approx(
        np.log(2) + 0.05, abs=1e-6
    )


def test_label_forms_agree(rng):
    logits, labels = rng.normal(size=(6, 2, 4)), rng.integers(0, 4, 6)
    expected = value(PairwiseLoss(), labels, logits)
    for form in (labels[:, None], np.eye(4)[labels], labels.astype("float32")):
        assert value(PairwiseLoss(), form, logits) == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_is_keras_own(rng):
    logits, labels = rng.normal(size=(6, 4)).astype("float32"), rng.integers(0, 4, 6)
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.2
    )
    expected = value(keras_loss, np.eye(4)[labels], logits)
    for form in (labels, np.eye(4)[labels]):
        assert value(PairwiseLoss(label_smoothing=0.2), form, logits) == pytest.approx(
            expected, abs=1e-6
        )


def test_single_images_have_plain_cross_entropy(rng):
    logits, labels = rng.normal(size=(6, 4)).astype("float32"), rng.integers(0, 4, 6)
    keras_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert value(PairwiseLoss(), labels, logits) == pytest.approx(
        value(keras_loss, labels, logits), abs=1e-6
    )


def test_sample_weights_follow_keras(rng):
    """Sum of weighted rows over the number of rows, as Keras's own losses do."""
    logits, labels = rng.normal(size=(4, 2, 3)), rng.integers(0, 3, 4)
    rows = ops.convert_to_numpy(PairwiseLoss(reduction=None)(labels, logits))
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    assert value(
        PairwiseLoss(), labels, logits, sample_weight=weights
    ) == pytest.approx((rows * weights).sum() / 4, abs=1e-5)


def test_half_precision_logits_are_lifted(rng):
    # exp(-30) is 0 in float16, whose logarithm would be infinite.
    logits = np.array([[[30.0, 0.0], [0.0, 30.0]]], "float16")
    expected, _, _ = pairwise_loss([1], logits[:, 0], logits[:, 1])
    assert value(PairwiseLoss(), np.array([1]), logits) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("label", [-1, 3, 1000])
def test_a_label_out_of_range_is_never_learned_in_silence(label):
    logits = np.zeros((2, 2, 3), "float32")
    assert np.isnan(value(PairwiseLoss(), np.array([0, label]), logits))


def test_config_round_trip():
    loss = PairwiseLoss(0.1, 0.5, 0.2, name="mine", single_image_weight=0.3)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, PairwiseLoss)
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "options",
    [
        {"margin": -0.1},
        {"ranking_weight": -1},
        {"label_smoothing": 1.0},
        {"single_image_weight": -1},
    ],
)
def test_bad_options_are_named(options):
    (name,) = options
    with pytest.raises(APINetError, match=f"{name}={options[name]}"):
        PairwiseLoss(**options)


def test_bad_shapes_are_named():
    with pytest.raises(APINetError, match=r"\(4, 3, 2\)"):
        PairwiseLoss()(np.zeros(4, "int32"), np.zeros((4, 3, 2)))
