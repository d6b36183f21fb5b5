"""Two methods, several seeds each, on the same photos."""

import json
import shutil

import numpy as np
import pytest
from evaluate_runs import make_run, photos
from sklearn import metrics as sk

from keras_apinet import APINetError, data
from keras_apinet.cli import main
from keras_apinet.cli.compare_runs import latex, text
from keras_apinet.evaluate import compare_runs
from keras_apinet.evaluate.calibration import calibration_error, log_softmax
from keras_apinet.evaluate.run_comparison import Answers, differences, mcnemar

pytestmark = pytest.mark.one_backend


def test_figures_are_those_of_scikit_learn(rng):
    labels = rng.integers(0, 4, 90)
    logits = rng.normal(size=(3, 90, 4)) + np.eye(4)[labels]
    found = differences(
        Answers.of(labels, [log_softmax(one) for one in logits]),
        Answers.of(labels, [log_softmax(one) for one in logits[:1] / 2]),
        repeats=50,
    )
    predicted = logits.argmax(axis=2)
    for name, measure in (
        ("top1", sk.accuracy_score),
        ("mean_per_class_accuracy", sk.balanced_accuracy_score),
    ):
        values = [measure(labels, one) for one in predicted]
        assert found[name]["first"] == pytest.approx(np.mean(values))
        assert found[name]["second"] == pytest.approx(values[0])
    nll = [sk.log_loss(labels, np.exp(log_softmax(one))) for one in logits]
    assert found["nll"]["first"] == pytest.approx(np.mean(nll))
    ece = [calibration_error(labels, one) for one in logits]
    assert found["ece"]["first"] == pytest.approx(np.mean(ece))
    assert found["ece"]["difference"] == pytest.approx(
        np.mean(ece) - calibration_error(labels, logits[0] / 2)
    )


def test_intervals_hold_the_true_difference():
    """Photos of several difficulties, seeds that differ by 2 points: 95 in 100."""
    rng = np.random.default_rng(1)
    held, runs, n, gap = 0, 5, 200, 0.05
    for trial in range(200):
        hard = rng.uniform(-0.2, 0.2, n)
        methods = []
        for mean in (0.7 + gap, 0.7):
            chance = mean + hard + rng.normal(0, 0.02, (runs, 1))
            right = (rng.random((runs, n)) < chance).astype(float)
            methods.append(Answers(np.zeros(n, int), right, right, right))
        top1 = differences(*methods, repeats=300, seed=trial)["top1"]
        held += top1["low"] <= gap <= top1["high"]
    assert 180 <= held <= 200


def test_seeds_widen_the_interval_and_one_run_has_none():
    """Two runs, right in all photos and in none: other runs could be either."""
    labels, right = np.zeros(50, int), np.array([[1.0] * 50, [0.0] * 50])
    two = Answers(labels, right, right, right)
    one = Answers(labels, right[:1], right[:1], right[:1])
    top1 = differences(two, one, repeats=200)["top1"]
    assert (top1["difference"], top1["low"], top1["high"]) == (-0.5, -1, 0)
    top1 = differences(one, one, repeats=200)["top1"]
    assert (top1["difference"], top1["low"], top1["high"]) == (0, 0, 0)


def test_many_samples_are_drawn_in_parts_of_a_thousand(rng):
    right = [(rng.random((2, 40)) < 0.7).astype(float) for _ in range(2)]
    methods = [Answers(np.zeros(40, int), one, one, one) for one in right]
    drawn = []
    rng_weights = np.random.default_rng(3)
    for count in (1000, 500):
        weights = rng_weights.multinomial(40, np.full(40, 1 / 40), size=count)
        means = []
        for one in right:  # of two runs, one is drawn
            picked = rng_weights.multinomial(1, [0.5, 0.5], size=count)
            means.append((weights @ one.T / 40 * picked).sum(axis=1))
        drawn.append(means[0] - means[1])
    ends = np.percentile(np.concatenate(drawn), (2.5, 97.5))
    found = differences(*methods, repeats=1500, seed=3)["top1"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends))


def test_mcnemar_by_hand():
    """1 against 8 of 9: 2 (1 + 9) / 2^9."""
    assert mcnemar([1, *[0] * 8], [0, *[1] * 8])["p"] == pytest.approx(20 / 512)
    assert mcnemar([1, 0, 1], [1, 0, 1]) == {
        "only_first": 0,
        "only_second": 0,
        "p": 1.0,
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    table = photos(tmp_path_factory.mktemp("data"))
    names = data.load(table).class_names
    folder = tmp_path_factory.mktemp("runs")
    one = make_run(folder / "pairs-0", table, names)
    return table, one, shutil.copytree(one, folder / "plain-0")


@pytest.mark.slow
def test_equal_runs_do_not_differ(runs, capsys):
    _, first, second = runs
    both = [str(first), str(first), "--", str(second)]
    assert main(["compare-runs", *both, "--bootstrap", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 9
    assert (result["first"], result["second"]) == (["pairs-0"] * 2, ["plain-0"])
    differences = [f["difference"] for f in result["figures"].values()]
    assert differences == pytest.approx([0] * len(differences), abs=1e-12)
    (pair,) = result["mcnemar"]
    assert pair["p"] == 1
    for words in ("+0.00 (+0.00 to +0.00)", "p = 1", "do not cover other seeds"):
        assert words in text(result)
    assert r"top-1 accuracy, \% & " in latex(result)


def test_runs_that_cannot_be_compared(runs, tmp_path, capsys):
    table, first, second = runs
    other = shutil.copytree(second, tmp_path / "other")
    description = json.loads((other / "run.json").read_text("utf-8"))
    description["class_names"] = description["class_names"][::-1]
    (other / "run.json").write_text(json.dumps(description), "utf-8")
    assert main(["compare-runs", str(first), "--", str(other)]) == 2
    assert "different classes" in capsys.readouterr().err
    with pytest.raises(APINetError, match=r"bootstrap=0 must be .* at least 1"):
        compare_runs([first], [second], bootstrap=0)
    with pytest.raises(SystemExit, match="2"):
        main(["compare-runs", str(first)])
    assert "--against" in capsys.readouterr().err
    rows = table.read_text("utf-8").splitlines()
    fewer = table.with_name("fewer.csv")
    fewer.write_text("\n".join(rows[:-1]), "utf-8")
    moved = shutil.copytree(second, tmp_path / "moved")
    description = json.loads((moved / "run.json").read_text("utf-8"))
    description["data"]["load"]["name"] = str(fewer)
    (moved / "run.json").write_text(json.dumps(description), "utf-8")
    with pytest.raises(APINetError, match=r"different test photos .*8 and 9 photos"):
        compare_runs([first], [moved], bootstrap=5)
