"""Two methods side by side."""

import json

import numpy as np
import pytest
from evaluate_runs import make_run, photos
from scipy import stats

from keras_apinet import APINetError, data, evaluate
from keras_apinet.cli import main
from keras_apinet.evaluate import run_comparison
from keras_apinet.evaluate.metrics import Scores
from keras_apinet.evaluate.run_comparison import as_latex, compare_scores

pytestmark = pytest.mark.one_backend


def scored(right):
    """Scores of images of class 0, of which some are right."""
    wrong = ~np.asarray(right, bool)
    return Scores.of(np.zeros(len(wrong), int), np.eye(2)[wrong.astype(int)])


def test_figures_and_mcnemar_by_hand():
    """A is right in 6 and 4 of 10, B in 3: 0.5 - 0.3. In pair 1, A alone in 3."""
    a = [scored(np.arange(10) < k) for k in (6, 4)]
    b = [scored(np.arange(10) < 3)]
    result = compare_scores(a, b, repeats=0)
    top1 = result["figures"]["top1"]
    assert top1["first"] == {"mean": 0.5, "runs": [0.6, 0.4]}
    assert top1["difference"]["value"] == pytest.approx(0.2)
    assert top1["difference"]["low"] is None
    (pair,) = result["mcnemar"]
    assert pair == {"only_first": 3, "only_second": 0, "p": pytest.approx(2 / 8)}
    assert result["runs"] == [2, 1]


def test_the_interval_of_one_run_each_is_that_of_paired_images():
    """200 images: 30 right in A alone, 10 in B alone; mean 0.1 and its t-interval."""
    a, b = np.zeros((2, 200), bool)
    a[:130], b[30:140] = True, True
    found = compare_scores([scored(a)], [scored(b)])["figures"]["top1"]["difference"]
    ends = stats.ttest_rel(a.astype(float), b.astype(float)).confidence_interval()
    assert (found["low"], found["high"]) == pytest.approx(tuple(ends), abs=0.01)


def test_the_interval_covers_images_and_seeds(rng):
    """Seeds move the difference by 1.9 points (sd), images by 1.5; the truth is 5.

    Images alone would give an interval that holds it in 78 of 100 experiments.
    """
    held = []
    for _ in range(40):
        hard = rng.normal(size=200)

        def method(mean, hard=hard):
            seeds = mean + 0.03 * rng.normal(size=(5, 1))
            return [scored(row) for row in hard < stats.norm.ppf(seeds)]

        pair = method(0.75), method(0.70)
        found = compare_scores(*pair, repeats=100)["figures"]["top1"]["difference"]
        held.append(found["low"] <= 0.05 <= found["high"])
    assert np.mean(held) > 0.85


def test_latex_is_escaped():
    result = compare_scores([scored([1, 0])], [scored([0, 0])], repeats=0)
    text = as_latex(result, ("a_b", "50 %"))
    assert r" & a\_b & 50 \% & " in text
    assert r"accuracy, \% & 50.00 & 0.00 & +50.00 \\" in text


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    (root / "other").mkdir()
    table, other = photos(root), photos(root / "other")
    names = data.load(table).class_names
    make_run(root / "a", table, names)
    make_run(root / "kiwi", table, [*names, "kiwi"])
    make_run(root / "b", other, names)
    return root


def test_a_run_against_itself(runs, capsys, monkeypatch):
    run = str(runs / "a")
    command = ["compare-runs", run, run, "--", run, "--bootstrap", "9"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    accuracy = evaluate.evaluate_run(run, bootstrap=0)["metrics"]["top1"]["value"]
    assert result["figures"]["top1"]["first"]["runs"] == [accuracy] * 2
    assert result["figures"]["nll"]["difference"]["high"] == pytest.approx(0)
    assert (result["split"], result["images"], result["classes"]) == ("test", 9, 3)
    monkeypatch.setattr(run_comparison, "compare_runs", lambda *_, **__: result)
    assert main([*command, "--names", "pairs", "plain"]) == 0
    shown = capsys.readouterr().out
    assert "pairs" in shown
    assert "McNemar, pair 1: 0 images" in shown
    assert "single run" in shown
    assert main([*command, "--latex"]) == 0
    assert capsys.readouterr().out.startswith(r"\begin{tabular}")


def test_runs_that_cannot_be_compared(runs, capsys):
    run = str(runs / "a")
    for command in ([run, run], [run, "--"], [run, "--", run, "--", run]):
        assert main(["compare-runs", *command]) == 2
        assert "one -- between their runs" in capsys.readouterr().err
    for other, what in (("kiwi", "classes"), ("b", "photos or labels")):
        with pytest.raises(APINetError, match=f"different {what}"):
            evaluate.compare_runs([run], [runs / other])
    with pytest.raises(APINetError, match="got 1 and 0"):
        evaluate.compare_runs([run], [])
