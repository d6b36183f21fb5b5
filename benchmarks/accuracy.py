"""Accuracy of pairs and of an equally tuned baseline, on look-alike classes.

    python -m benchmarks.accuracy --data FOLDER --weights FILE [--seeds 0 1 2]
        [--recipe FILE.toml] [--set NAME=VALUE ...] [--which last] [--out runs/accuracy]

Both methods are trained with each seed on the recipe's data, on the backend chosen by
`KERAS_BACKEND`, and tested once. Classes whose names end in the same word
(`Brewer_Sparrow`, `Field_Sparrow`) form a family: photos of families are also
classified among the classes of their family only. If it is stopped, the same command
continues and skips finished runs.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results
from benchmarks.trainings import (
    Arm,
    add_arguments,
    measured,
    protocol,
    recipe_of,
    spread,
    variant_of,
)
from benchmarks.tuning import PLAIN, RATE
from keras_apinet.evaluate.calibration import log_softmax
from keras_apinet.evaluate.run_comparison import Answers, differences, mcnemar
from keras_apinet.runs import Run

# The recipe has the best settings for pairs; these are the baseline's (see `tuning`).
ARMS = [Arm("pairs"), Arm("baseline", PLAIN | RATE)]
FIGURES = {
    "top1": ("top-1, %", 100),
    "mean_per_class_accuracy": ("per class, %", 100),
    "within": ("within families, %", 100),
    "nll": ("NLL, nats", 1),
    "ece": ("calibration error, points", 100),
}


def families(names: Any) -> list[np.ndarray]:
    """Groups of two or more classes whose names end in the same word, as `[k]` ids."""
    words = [re.split(r"[\W_]+", str(name).strip())[-1].lower() for name in names]
    alike = [np.flatnonzero(np.array(words) == word) for word in dict.fromkeys(words)]
    return [classes for classes in alike if len(classes) > 1]


def answers(runs: list[Run]) -> tuple[Answers, Answers, np.ndarray]:
    """Predictions for the test photos, and for photos of families within their family.

    Returns:
        Both predictions, and a mask of the photos that belong to a family.
    """
    log_p, labels = [], np.empty(0, np.int64)
    for run in runs:
        with np.load(run.folder / "logits_test.npz", allow_pickle=False) as file:
            log_p.append(log_softmax(file["logits"], float(file["temperature"])))
            labels = file["labels"]
    mask = np.full((log_p[0].shape[1],) * 2, -np.inf)
    for classes in families(runs[0].class_names):
        mask[np.ix_(classes, classes)] = 0
    of_family = np.isfinite(mask).any(axis=1)[labels]
    among = []
    for each in log_p:
        kept = each[of_family] + mask[labels[of_family]]
        among.append(kept - np.logaddexp.reduce(kept, axis=1, keepdims=True))
    return Answers.of(labels, log_p), Answers.of(labels[of_family], among), of_family


def by_family(names: Any, first: Answers, second: Answers) -> list[list[Any]]:
    """Rows for families of three or more: name, photos, both top-1, difference."""
    rows = []
    for classes in families(names):
        own = np.isin(first.labels, classes)
        if len(classes) < 3 or not own.any():
            continue
        a, b = (each.right[:, own].mean() for each in (first, second))
        word = re.split(r"[\W_]+", str(names[classes[0]]).strip())[-1]
        rows.append([f"{word} ({len(classes)})", int(own.sum()), a, b, a - b])
    return sorted(rows, key=lambda row: row[-1])


def draw(path: Path, rows: list[list[Any]], title: str) -> None:
    """Plots both methods' accuracy on each family, with the largest gain on top."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "accuracy"  # makes the file reproducible
    figure, axes = pyplot.subplots(figsize=(7, 0.24 * len(rows) + 1.4))
    places = np.arange(len(rows))
    ours, theirs = (100 * np.array([row[i] for row in rows]) for i in (2, 3))
    axes.hlines(places, ours, theirs, color="0.7")
    axes.plot(theirs, places, "o", color="0.45", label="baseline")
    axes.plot(ours, places, "o", color="C0", label="pairs")
    axes.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axes.set_xlabel("test top-1 of the family's photos, %")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", color="0.9")
    axes.legend(loc="best", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Prints and records the tables and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    add_arguments(parser, "runs/accuracy", [0, 1, 2])
    parser.add_argument(
        "--which",
        choices=["best", "last"],
        default="best",
        help="test the epoch that was best on validation, or the last",
    )
    args = parser.parse_args()
    recipe, out = recipe_of(args), Path(args.out)
    measured(recipe, ARMS, args.seeds, out, args.jobs, args.which)
    runs = {
        arm.name: [Run.open(out / f"{arm.name}-{seed}") for seed in args.seeds]
        for arm in ARMS
    }
    (first, first_within, of_family), (second, second_within, _) = (
        answers(each) for each in runs.values()
    )
    found = differences(first, second)
    if of_family.any():
        found["within"] = differences(first_within, second_within)["top1"]
    rows = []
    for name, (title, scale) in FIGURES.items():
        if name in found:
            a, b, gap, low, high = (
                f"{scale * found[name][key]:{'+' if i > 1 else ''}.2f}"
                for i, key in enumerate(
                    ("first", "second", "difference", "low", "high")
                )
            )
            rows.append([title, a, b, f"{gap} ({low} to {high})"])
    for row in rows:
        print(f"{row[0]:28}{row[1]:>10}{row[2]:>10}   {row[3]}")
    what, variant = Path(recipe.data).name, variant_of(recipe)
    tests = [mcnemar(a, b) for a, b in zip(first.right, second.right, strict=True)]
    notes = "; ".join(
        f"seed {seed}: {t['only_first']} photos are correct only with pairs, "
        f"{t['only_second']} only with the baseline, McNemar p = {t['p']:.2g}"
        for seed, t in zip(args.seeds, tests, strict=True)
    )
    each = [
        ", ".join(f"{100 * v:.2f}" for v in a.right.mean(1)) for a in (first, second)
    ]
    names = runs["pairs"][0].class_names
    table, figure = by_family(names, first, second), None
    if table:
        figure = f"{results.stem('accuracy', variant)}.svg"
        draw(
            results.FOLDER / figure, table, f"{what}: families of three classes or more"
        )
    gap = found["top1"]
    frozen = f"{recipe.freeze_fraction:.0%} frozen, " if recipe.freeze_fraction else ""
    headline = {
        f"test top-1, {what}, {frozen}{name}": f"{spread(a.right.mean(1))} %"
        for name, a in (("pairs", first), ("baseline", second))
    }
    headline[f"test top-1, {what}, {frozen}pairs - baseline"] = (
        f"{100 * gap['difference']:+.2f} "
        f"({100 * gap['low']:+.2f} to {100 * gap['high']:+.2f}) points"
    )
    results.record(
        "accuracy",
        f"Pairs against a tuned baseline, {what}",
        ["test figure", "pairs", "baseline", "difference (95 %)"],
        rows,
        protocol(recipe, args.seeds, args.which)
        + f" Top-1 of each seed: pairs {each[0]}; baseline {each[1]}. The intervals "
        f"are from a bootstrap over photos and seeds together; {notes}. Within "
        f"families: {int(of_family.sum()):,} of {len(of_family):,} photos, classified "
        "among the classes whose names end in the same word.",
        variant=variant,
        # Results with fewer seeds are preliminary.
        headline=headline if len(args.seeds) > 2 else {},
        figure=figure,
    )


if __name__ == "__main__":
    main()
