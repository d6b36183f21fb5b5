import numpy as np
import pytest
from sklearn import metrics as sk

from keras_apinet.evaluate.calibration import (
    calibration_error,
    log_softmax,
    reliability,
)
from keras_apinet.evaluate.measures import (
    confused_pairs,
    confusion_matrix,
    within_groups,
)
from keras_apinet.evaluate.metrics import (
    Scores,
    class_rows,
    class_scores,
    retrieval_scores,
    with_intervals,
)
from keras_apinet.evaluate.plots import look_alike_order
from keras_apinet.shares import share_interval

pytestmark = pytest.mark.one_backend
CLASSES = 7


@pytest.fixture
def labels(rng):
    return rng.integers(0, CLASSES, 301)


@pytest.fixture
def logits(rng, labels):
    return (rng.normal(size=(301, CLASSES)) * 2 + np.eye(CLASSES)[labels]).astype("f4")


def test_figures_are_those_of_scikit_learn(labels, logits):
    figures = Scores.of(labels, logits).figures()
    predicted = logits.argmax(axis=1)
    p = np.exp(log_softmax(logits))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predicted, average="macro", zero_division=0
    )
    expected = {
        "top1": sk.accuracy_score(labels, predicted),
        "top5": sk.top_k_accuracy_score(labels, p, k=5),
        "mean_per_class_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_precision": precision,
        "macro_recall": recall,
        "macro_f1": f1,
        "nll": sk.log_loss(labels, p),
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_per_class_scores_are_those_of_scikit_learn(labels, logits):
    labels = np.where(labels == 3, 2, labels)  # a class without images
    predicted = logits.argmax(axis=1)
    predicted[predicted == 5] = 4  # and one that is never named
    ours = class_scores(labels, predicted, CLASSES)
    theirs = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(CLASSES), zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1", "images"), theirs):
        np.testing.assert_allclose(ours[name], values)


def test_macro_figures_leave_out_classes_without_images():
    """Classes 0 and 1 have images: recall 1 and 0, mean 1/2; class 2 has none."""
    figures = Scores.of([0, 0, 1], np.eye(3)[[0, 0, 2]]).figures()
    assert figures["mean_per_class_accuracy"] == 0.5
    assert figures["macro_f1"] == 0.5


def test_equal_scores_name_the_first_class():
    figures = Scores.of([0, 4, 5, 9], np.zeros((4, 10))).figures()
    assert (figures["top1"], figures["top5"]) == (0.25, 0.5)
    assert figures["nll"] == pytest.approx(np.log(10))


def test_calibration_error_by_hand():
    """Confidence 0.8 in two images, one right: gap 0.3. Confidence 0.6, right: gap 0.4.

    (2 * 0.3 + 1 * 0.4) / 3 = 1/3.
    """
    logits = np.log([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    labels = np.array([0, 1, 0])
    assert calibration_error(labels, logits) == pytest.approx(1 / 3)
    ece = with_intervals(Scores.of(labels, logits))["ece"]
    assert ece["value"] == pytest.approx(1 / 3)
    assert (ece["low"], ece["high"], ece["images"]) == (None, None, 3)
    table = reliability(labels, logits)
    assert table["images"].tolist() == [0] * 8 + [1, 0, 0, 2] + [0] * 3
    assert table["accuracy"][11] == 0.5
    assert table["confidence"][8] == pytest.approx(0.6)


def test_retrieval_is_that_of_plain_loops(rng):
    labels = np.append(rng.integers(0, 5, 60), 9)  # class 9 has one image
    x = rng.normal(size=(61, 4)) + 20
    found = retrieval_scores(x, labels)
    for i in range(61):
        order = sorted(
            (j for j in range(61) if j != i), key=lambda j: np.linalg.norm(x[i] - x[j])
        )
        hits = [labels[j] == labels[i] for j in order]
        r = sum(hits)
        if not r:
            assert all(np.isnan(values[i]) for values in found.values())
            continue
        average = sum(sum(hits[: k + 1]) / (k + 1) for k in range(r) if hits[k]) / r
        assert found["recall@1"][i] == hits[0]
        assert found["recall@5"][i] == any(hits[:5])
        assert found["map@r"][i] == pytest.approx(average)


def test_confused_pairs_count_both_directions():
    labels = np.array([0, 0, 0, 1, 2, 2])
    predicted = np.array([1, 1, 0, 0, 0, 2])
    names = ["a", "b", "c"]
    np.testing.assert_array_equal(
        confusion_matrix(labels, predicted, 3), sk.confusion_matrix(labels, predicted)
    )
    first, second = confused_pairs(labels, predicted, names)
    assert first == {
        "classes": ["a", "b"],
        "errors": 3,
        "first_as_second": 2,
        "second_as_first": 1,
        "share": 0.75,
        "of": 4,
    }
    assert second["classes"] == ["c", "a"]
    assert confused_pairs(labels, labels, names) == []


def test_accuracy_within_groups_by_hand():
    """Groups (0, 1) and (2, 3). Of four images two are right, one error stays inside.

    Given the group, image 3 (scores 9, 0, 1, 2; class 3) would be right: 3 of 4.
    """
    logits = np.array([[5, 1, 0, 0], [5, 1, 0, 0], [0, 0, 4, 1], [9, 0, 1, 2.0]], "f4")
    labels = np.array([0, 1, 2, 3])
    result = within_groups(labels, logits, {"family": ("x", "x", "y", "y")})["family"]
    assert result["top1"] == 0.5
    assert result["top1_of_group"] == 0.75
    assert result["top1_within_group"] == 0.75
    assert result["errors_within_group"] == 0.5
    assert [g["group"] for g in result["groups"]] == ["x", "y"]
    assert result["groups"][1]["top1_within_group"] == 1
    low, high = result["groups"][1]["intervals"]["top1_within_group"]
    assert (low, high) == pytest.approx((0.342, 1), abs=1e-3)  # Wilson, 2 of 2


def test_look_alikes_stand_together():
    """Classes 0, 2, 4 are confused with each other, as are 1, 3, 5; 6 has no image."""
    labels = np.repeat(np.arange(6), 10)
    logits = np.full((60, 7), -5.0, "f4")
    for i, c in enumerate(labels):
        logits[i, [c, (c + 2) % 6]] = 2
    order = look_alike_order(labels, logits, np.eye(2)[labels % 2]).tolist()
    assert {frozenset(order[:3]), frozenset(order[3:6])} == {
        frozenset({0, 2, 4}),
        frozenset({1, 3, 5}),
    }
    assert order[6] == 6


def test_interval_of_an_accuracy_is_the_binomial_one():
    """80 of 100 right: standard error sqrt(0.8 * 0.2 / 100) = 0.04, so +- 0.078."""
    labels = np.zeros(100, int)
    logits = np.eye(2)[(np.arange(100) >= 80).astype(int)]
    top1 = with_intervals(Scores.of(labels, logits))["top1"]
    assert top1["value"] == pytest.approx(0.8)
    assert (top1["low"], top1["high"]) == pytest.approx((0.722, 0.878), abs=0.015)


def test_interval_of_a_share_is_wilsons(rng):
    """Its ends p solve |k/n - p| = z sqrt(p (1 - p) / n), the test it turns round."""
    total = rng.integers(1, 50, 20)
    hits = rng.integers(0, total + 1)
    for k, n, low, high in zip(hits, total, *share_interval(hits, total)):
        for end in (low, high):
            if 1e-9 < end < 1 - 1e-9:
                z = abs(k / n - end) / np.sqrt(end * (1 - end) / n)
                assert z == pytest.approx(1.96, abs=1e-3)
        assert low <= k / n <= high
    assert [float(end[0]) for end in share_interval([0], [0])] == [0, 1]


def test_intervals_of_a_class_are_those_of_shares():
    """Class 0: 3 of 4 images found, called 6 times: union 4 + 6 - 3 = 7, J = 3/7.

    F1 = 2 * 3 / (4 + 6) = 0.6, as 2 J / (1 + J) is.
    """
    labels = np.repeat([0, 1], [4, 6])
    predicted = np.array([0, 0, 0, 1, 0, 0, 0, 1, 1, 1])
    row, _ = class_rows(Scores.of(labels, np.eye(3)[predicted]), ["a", "b", "c"])
    assert (row["recall"], row["precision"], row["f1"]) == (0.75, 0.5, 0.6)
    recall, precision, union = (share_interval([3], [n]) for n in (4, 6, 7))
    assert row["intervals"]["recall"] == [recall[0][0], recall[1][0]]
    assert row["intervals"]["precision"] == [precision[0][0], precision[1][0]]
    assert row["intervals"]["f1"] == [2 * j[0] / (1 + j[0]) for j in union]


def test_one_image_has_figures_and_no_intervals():
    figures = with_intervals(Scores.of([1], [[0.0, 3.0]], [[1.0, 2.0]]))
    low, high = (end[0] for end in share_interval([1], [1]))
    assert figures["top1"] == {"value": 1.0, "low": low, "high": high, "images": 1}
    assert figures["macro_f1"]["low"] is None
    assert figures["recall@1"]["value"] is None


def test_intervals_do_not_depend_on_anything_but_the_predictions(labels, logits, rng):
    scores = Scores.of(labels, logits, rng.normal(size=(301, 3)))
    assert with_intervals(scores, repeats=20) == with_intervals(scores, repeats=20)
    without = with_intervals(scores, repeats=0)
    unknown = {name for name, figure in without.items() if figure["low"] is None}
    assert unknown == set(without) - {"top1", "top5"}


@pytest.mark.parametrize("classes", [2, 8])
def test_no_interval_has_a_width_of_0(classes):
    """40 images, all right, features that are apart, probabilities of 0 and 1."""
    labels = np.arange(40) % classes
    one_hot = np.eye(classes)[labels]
    figures = with_intervals(Scores.of(labels, 1000 * one_hot, one_hot), repeats=100)
    for name, figure in figures.items():
        assert figure["images"] == 40
        # No sample shows what the first error will cost; the rest have none ever.
        if name in ("nll", "ece", "recall@1", "recall@5", "map@r"):
            assert figure["low"] is None
            continue
        assert figure["high"] - figure["low"] > 0.05, name
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert figures["top1"]["low"] == pytest.approx(0.912, abs=1e-3)  # 1 / (1 + z^2/40)
    assert figures["mean_per_class_accuracy"]["low"] < 0.92
    assert ("top5" in figures) == (classes > 5)


def test_a_mean_over_unequal_classes_is_as_unsure_as_its_smallest():
    """100 images of one class and 2 of another: worth 4 / (1/100 + 1/2) = 7 images."""
    labels = np.repeat([0, 1], [100, 2])
    figures = with_intervals(Scores.of(labels, np.eye(2)[labels]), repeats=50)
    low = 7 / (7 + 1.959964**2)
    assert figures["mean_per_class_accuracy"]["low"] == pytest.approx(low, abs=1e-6)
    assert figures["top1"]["low"] > 0.96
