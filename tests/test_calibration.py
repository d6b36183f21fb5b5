"""The temperature, and what is said of over- and under-confidence."""

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from keras_apinet.evaluate.calibration import (
    explained_temperature,
    fit_temperature,
    negative_log_likelihood,
)
from keras_apinet.evaluate.measures import (
    calibration_words,
    compute_metrics,
    confidence_gap,
    raised_errors,
)
from keras_apinet.evaluate.predictions import Predictions
from keras_apinet.shares import (
    decimal,
    disagreement,
    few_images,
    interval,
    percent,
    probability,
    share_of,
    wilson,
)

pytestmark = pytest.mark.one_backend


def drawn(rng, images, temperature, classes=8):
    """Labels that follow `softmax(logits / temperature)`: that is the right answer."""
    logits = 4 * rng.normal(size=(images, classes))
    p = special.softmax(logits / temperature, axis=1)
    return np.array([rng.choice(classes, p=row) for row in p]), logits


@pytest.mark.parametrize("right", [0.6, 1.0, 2.5, 6.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(rng, right):
    assert fit_temperature(*drawn(rng, 4000, right)) == pytest.approx(right, rel=0.1)


def test_few_images_only_nudge_it(rng):
    """The prior holds: 30 images do not double a temperature that is right."""
    found = [fit_temperature(*drawn(rng, 30, 1.0)) for _ in range(30)]
    assert max(found) < 1.6
    assert min(found) > 0.7


def twins(rng, twin, sharpness, objects=6, photos=8, classes=8):
    """Logits of a linear classifier on photos in bursts, as validation and as test.

    Each class has some objects, each object some photos that hardly differ. A share
    `twin` of the validation photos has its twins in training; the rest are of objects
    of their own, as all test photos are.
    """
    centres = rng.normal(size=(classes, 40))

    def bursts(count):
        owner = np.repeat(np.arange(classes * count), photos)
        labels = owner // count
        looks = centres[np.arange(classes * count) // count]
        looks = looks + 2.5 * rng.normal(size=looks.shape)
        noise = 0.5 * rng.normal(size=(len(owner), 40))
        return labels, owner, looks[owner] + noise

    labels, owner, x = bursts(objects)
    size = len(labels) // 10
    held = list(rng.permutation(len(labels))[: round(size * twin)])
    for one in rng.permutation(classes * objects):
        if len(held) < size:
            held += [i for i in np.flatnonzero(owner == one) if i not in held]
    rest = np.setdiff1d(np.arange(len(labels)), held)
    model = LogisticRegression(C=sharpness, max_iter=300).fit(x[rest], labels[rest])
    test_labels, _, test = bursts(40)
    return (
        (labels[held], model.decision_function(x[held])),
        (test_labels, model.decision_function(test)),
    )


@pytest.mark.parametrize("sharpness", [1e-3, 1e-2, 0.1, 10.0])
def test_validation_photos_with_twins_never_make_the_model_surer(rng, sharpness):
    """All or nearly all validation photos are right, half of the test photos are."""
    for _ in range(3):
        validation, test = twins(rng, 1.0, sharpness)
        assert (validation[1].argmax(1) == validation[0]).mean() > 0.9
        assert (test[1].argmax(1) == test[0]).mean() < 0.75
        temperature = fit_temperature(*validation)
        assert temperature >= 1
        before, after = (
            negative_log_likelihood(*test, temperature=t) for t in (1.0, temperature)
        )
        assert after <= before + 0.01


@pytest.mark.parametrize("twin", [0.0, 0.6])
def test_a_sure_model_becomes_less_sure_where_validation_shows_it(rng, twin):
    gains = []
    for _ in range(4):
        validation, test = twins(rng, twin, 10.0)
        temperature = fit_temperature(*validation)
        gains.append(
            negative_log_likelihood(*test)
            - negative_log_likelihood(*test, temperature=temperature)
        )
    assert np.mean(gains) > 0.1


def test_why_a_temperature_is_1(rng):
    temperature, reason = explained_temperature(*drawn(rng, 12, 5.0))
    assert temperature == 1
    assert "12 validation images are too few" in reason
    assert explained_temperature([], np.zeros((0, 3)))[0] == 1
    timid = 2 * np.eye(8)[np.arange(40) % 8]  # says 51 %, and all 40 are right
    temperature, reason = explained_temperature(np.arange(40) % 8, timid)
    assert temperature == 1
    assert "0 errors on 40 validation images" in reason
    assert explained_temperature(*drawn(rng, 500, 4.0))[1] is None
    sure = 9 * np.eye(8)[np.arange(40) % 8]  # smoothed targets alone want 1.3
    temperature, reason = explained_temperature(np.arange(40) % 8, sure)
    assert temperature == 1
    assert "lowers the negative log-likelihood of the 40 validation images" in reason
    flat = explained_temperature(np.arange(40) % 8, np.zeros((40, 8)))
    assert flat == (1.0, "All classes have the same score, so the temperature is 1.")


def test_a_model_becomes_surer_only_as_far_as_its_accuracy_is_sure():
    """90 of 120 right at a confidence of 0.4: at most the lower end for 90 of 120."""
    labels, logits = np.repeat([0, 1], [90, 30]), np.zeros((120, 4))
    logits[:, 0] = np.log(0.4 / 0.2)
    temperature, reason = explained_temperature(labels, logits)
    assert temperature < 1
    assert reason is None
    sure = special.softmax(logits / temperature, axis=1)[0, 0]
    assert sure <= wilson(90, 120)[0] + 1e-6


def test_a_temperature_has_bounds():
    labels, logits = np.arange(400) % 2, np.tile([1e4, 0.0], (400, 1))
    assert fit_temperature(labels, logits) == pytest.approx(10, rel=1e-3)


def seen(labels, logits):
    return Predictions(
        np.asarray(labels),
        np.asarray(logits, "f4"),
        np.asarray(logits, "f4"),
        np.arange(len(labels)),
    )


def told(right, images, confidence, temperature=None):
    logits = np.tile([np.log(confidence / (1 - confidence)), 0.0], (images, 1))
    labels = np.repeat([0, 1], [right, images - right])
    given = seen(labels, logits)
    return compute_metrics(given, ["a", "b"], temperature=temperature, bootstrap=9)


def test_words_on_sureness_follow_from_the_figures():
    """70 of 100 at 0.95: 25 points too sure, less the Wilson ends 0.604 and 0.781."""
    (words,) = calibration_words(told(70, 100, 0.95))
    assert "over-confident by 25.0 points (16.9 to 34.6)" in words
    (words,) = calibration_words(told(95, 100, 0.7))
    assert "under-confident" in words
    (words,) = calibration_words(told(8, 10, 0.9))
    assert "does not show whether it is over- or under-confident" in words
    # All right at any confidence: nobody knows.
    assert confidence_gap([0] * 20, np.tile([9.0, 0], (20, 1)))["verdict"] is None
    assert confidence_gap([], np.zeros((0, 2)))["value"] is None


def test_a_temperature_that_raised_the_error_is_said_to_have():
    result = told(70, 100, 0.7, temperature=0.4)
    assert len(raised_errors(result)) == 2
    before, after = calibration_words(result)[:2]
    assert "does not show" in before
    assert "over-confident" in after
    assert raised_errors(told(70, 100, 0.95, temperature=2.0)) == []
    assert raised_errors(told(70, 100, 0.95, temperature=1.0)) == []


@pytest.mark.parametrize(
    ("right", "images", "hits", "tested", "words"),
    [
        (40, 40, 267, 390, "Trust the lower accuracy"),
        (40, 40, 267, 390, "40 validation photos are too few"),
        (120, 400, 350, 390, "harder or mislabeled"),
        (40, 40, 360, 390, None),  # 92.3 %: the intervals touch
        (9700, 10000, 9300, 10000, None),  # apart, and not by far
    ],
)
def test_validation_and_test_that_disagree(right, images, hits, tested, words):
    test = share_of(np.arange(tested) < hits)
    found = disagreement({"right": right, "images": images}, test)
    assert found is None if words is None else words in found
    assert disagreement({"temperature": 2.0}, test) is None


def test_shares_are_shown_as_they_are():
    assert [probability(x) for x in (1.0, 0.99996, 0.9994, 0.0)] == [
        *(">99.9%", ">99.9%", "99.9%", "<0.1%"),
    ]
    assert [percent(x) for x in (1.0, 2999 / 3000, 0.0)] == ["100.0%", ">99.9%", "0.0%"]
    assert interval(*wilson(40, 40)) == "91.2% to 100.0%"
    assert interval(None, None) == ""
    assert interval(0.50001, 0.50004) == "50.0010% to 50.0040%"
    assert interval(0.1, 0.2, decimal) == "0.100 to 0.200"
    assert "Only 40 images: each percentage may be off by ±15 points" in few_images(40)
    assert few_images(100) is None
    assert wilson(0, 0) == (0, 1)
