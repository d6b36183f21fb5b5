"""`compare_runs`: two methods, several runs each, on the same photos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.evaluation import default_split, open_judged_data
from keras_apinet.evaluate.metrics import Scores
from keras_apinet.evaluate.predictions import known_images, predict_split, run_options
from keras_apinet.files.bounds import BOOTSTRAP
from keras_apinet.runs import Run

FIGURES = {
    "top1": "accuracy",
    "mean_per_class_accuracy": "mean per-class accuracy",
    "nll": "negative log-likelihood",
    "ece": "calibration error",
}


def compare_runs(
    first: Sequence[Run | str | Path],
    second: Sequence[Run | str | Path],
    *,
    split: str | None = None,
    which: str = "best",
    data: str | None = None,
    data_dir: str | None = None,
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """Compares the runs of two methods on the same photos.

    Args:
        first: Runs of one method, or their folders: one for each seed.
        second: Runs of the other method.
        split: Default: `"test"`, or `"val"` where the data has no test split.
        which: The `"best"` model of each run (default) or the `"last"`.
        data: Where the data set is now, or another one to test on.
        data_dir: Where TensorFlow Datasets data is now, if it moved.
        bootstrap: Samples for the intervals, 0 for none. Default 1000.

    Returns:
        What `compare_scores` returns, with `split`, `images` and `classes`. No
        temperature is applied.

    Raises:
        APINetError: If a method has no run, or the runs have different classes or are
            tested on different photos.

    ```python
    result = compare_runs(["runs/pairs-0", "runs/pairs-1"], ["runs/plain-0"])
    print(result["figures"]["top1"]["difference"])
    ```
    """
    BOOTSTRAP.check("bootstrap", bootstrap)
    if not first or not second:
        raise APINetError(
            f"Each method needs a run; got {len(first)} and {len(second)}."
        )
    runs = [run if isinstance(run, Run) else Run.open(run) for run in (*first, *second)]
    parts, tested = [], []
    for run in runs:
        images, _ = open_judged_data(run, data, data_dir)
        name = split or default_split(images)
        part = known_images(images, name, run.class_names)
        photos = [
            (part.reference(i), run.class_names[c]) for i, c in enumerate(part.labels)
        ]
        parts.append(part)
        tested.append((sorted(run.class_names), name, photos))
        if tested[-1] != tested[0]:
            same = tested[-1][0] == tested[0][0]
            what = "photos or labels" if same else "classes"
            raise APINetError(
                f"The runs {str(runs[0].folder)!r} and {str(run.folder)!r} have "
                f"different {what}, so they cannot be compared; give runs of the same "
                "data, or one test set with --data."
            )
    scores = []
    for run, part in zip(runs, parts, strict=True):
        seen = predict_split(run.model(which), part, **run_options(run))
        scores.append(Scores.of(seen.labels, seen.logits))
    return {
        "split": name,
        "images": len(seen),
        "classes": len(run.class_names),
        **compare_scores(scores[: len(first)], scores[len(first) :], repeats=bootstrap),
    }


def compare_scores(
    first: Sequence[Scores],
    second: Sequence[Scores],
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares two methods by their scores on the same images, in the same order.

    Each bootstrap sample draws images, the same for all runs, and runs of each method.
    Of S runs S - 1 are drawn, with replacement: then the variance of a sample's mean
    is on average that of the mean of S runs. A single run shows nothing of the seeds:
    the interval then covers the images alone.

    Args:
        first: One for each run of a method.
        second: One for each run of the other method.
        repeats: Bootstrap samples, 0 for none. Default 1000.
        seed: Of the samples.

    Returns:
        `runs` (how many of each), `figures`: for each of `FIGURES`, `first` and
        `second` (`mean`, and the `runs` themselves) and `difference` (first minus
        second: `value`, and `low` and `high` of a 95 % interval or `None`); `mcnemar`:
        for the pairs of runs in order, `only_first` and `only_second` (images that one
        of them alone has right) and the exact two-sided `p`.
    """
    from scipy.stats import binomtest

    rng = np.random.default_rng(seed)
    sides = (first, second)
    values = [[scores.figures() for scores in side] for side in sides]
    drawn: dict[str, list[float]] = {name: [] for name in FIGURES}
    n = len(first[0].labels)
    for _ in range(repeats if n > 1 else 0):
        rows = rng.integers(0, n, n)
        means = []
        for side in sides:
            chosen = rng.integers(0, len(side), max(1, len(side) - 1))
            counts = np.bincount(chosen, minlength=len(side))
            figures = {
                i: side[i].figures(rows) for i in np.flatnonzero(counts).tolist()
            }
            means.append(
                {
                    name: sum(counts[i] * f[name] for i, f in figures.items())
                    / len(chosen)
                    for name in FIGURES
                }
            )
        for name, differences in drawn.items():
            differences.append(means[0][name] - means[1][name])
    result: dict[str, Any] = {"runs": [len(first), len(second)], "figures": {}}
    for name, differences in drawn.items():
        each = [[float(figures[name]) for figures in side] for side in values]
        one, other = (float(np.mean(side)) for side in each)
        ends = np.percentile(differences, (2.5, 97.5)) if differences else (None, None)
        result["figures"][name] = {
            "first": {"mean": one, "runs": each[0]},
            "second": {"mean": other, "runs": each[1]},
            "difference": {
                "value": one - other,
                "low": None if ends[0] is None else float(ends[0]),
                "high": None if ends[1] is None else float(ends[1]),
            },
        }
    result["mcnemar"] = []
    for a, b in zip(first, second, strict=False):
        right, other_right = a.rank == 0, b.rank == 0
        only = int((right & ~other_right).sum()), int((other_right & ~right).sum())
        p = float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
        result["mcnemar"].append(
            {"only_first": only[0], "only_second": only[1], "p": p}
        )
    return result


def table_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Figure, first method, second method, and the difference with its interval."""
    rows = []
    for name, title in FIGURES.items():
        figure = result["figures"][name]
        share = name in ("top1", "mean_per_class_accuracy")
        scale, digits = (100, 2) if share else (1, 3)
        means = (f"{scale * figure[s]['mean']:.{digits}f}" for s in ("first", "second"))
        value, low, high = (
            None if end is None else f"{scale * end:+.{digits}f}"
            for end in (figure["difference"][key] for key in ("value", "low", "high"))
        )
        ends = "" if low is None else f" ({low} to {high})"
        rows.append((f"{title}, %" if share else title, *means, f"{value}{ends}"))
    return rows


def as_latex(result: dict[str, Any], names: Sequence[str] = ("A", "B")) -> str:
    """The table for LaTeX, with the package `booktabs`."""
    special = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    rows = [
        ("", *names, "difference (95 % interval)"),
        *table_rows(result),
    ]
    lines = [
        " & ".join("".join(special.get(c, c) for c in cell) for cell in row) + r" \\"
        for row in rows
    ]
    return "\n".join(
        [
            r"\begin{tabular}{lrrr}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )
