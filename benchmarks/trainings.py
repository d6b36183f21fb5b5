"""Several training runs under one protocol, each in a child process and a run folder.

Evaluated runs are skipped, and interrupted ones are resumed. The best epoch on
validation or the last epoch is evaluated, and the test split is used only once, at the
end. `accuracy`, `ablation` and `tuning` are based on this module.
"""

import argparse
import csv
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import variants
from keras_apinet.runs import Run
from keras_apinet.train import Recipe
from keras_apinet.train.recipe import BEFORE
from keras_apinet.train.recipe_files import parse_assignments, read_settings

RECIPE = Path(__file__).parent.parent / "training" / "grocery_mobilenet_v2.toml"
# The figures of a run, and their names in tables.
FIGURES = {
    "val_top1": "validation top-1",
    "top1": "test top-1",
    "mean_per_class_accuracy": "test per-class",
}


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: Name of the arm, also used for its run folders.
        changes: Settings that differ from the recipe.
        variant: A change that no setting expresses, see `variants.VARIANTS`.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""


def add_arguments(parser: argparse.ArgumentParser, out: str, seeds: list[int]) -> None:
    """Adds the arguments of a benchmark that trains."""
    parser.add_argument(
        "--recipe",
        default=str(RECIPE),
        help="TOML file, or none for the package defaults",
    )
    parser.add_argument("--data", help="path of the dataset")
    parser.add_argument("--weights", help="weights file of the backbone")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="for all arms"
    )
    parser.add_argument("--out", default=out, help="folder for the run folders")
    parser.add_argument(
        "--jobs", type=int, default=1, help="parallel training runs, on a CPU"
    )


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that all arms start from."""
    settings = {} if args.recipe == "none" else read_settings(args.recipe)
    settings |= parse_assignments(args.set)
    given = {"data": args.data, "weights": args.weights}
    settings |= {name: value for name, value in given.items() if value is not None}
    return Recipe.of(settings, args.recipe)


def measured(
    recipe: Recipe,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    out: str | Path,
    jobs: int = 1,
    which: str = "best",
) -> dict[str, dict[str, np.ndarray]]:
    """Trains every arm with every seed, and evaluates it.

    Args:
        recipe: The settings shared by all arms.
        arms: The arms to train.
        seeds: Each arm is trained with each seed, all arms of one seed in a row.
        out: The folder for the run folders.
        jobs: Number of parallel training runs.
        which: The model that is tested: `"best"` on validation, or `"last"`.

    Returns:
        For each arm, each of `FIGURES` over the seeds, as fractions.
    """
    out = Path(out)
    # All seeds and arms share the cached views.
    if recipe.cached_views and recipe.cached_views_dir is None:
        recipe = dataclasses.replace(recipe, cached_views_dir=str(out / "views"))

    def one(seed: int, arm: Arm) -> dict[str, float]:
        folder = out / f"{arm.name.replace(' ', '_')}-{seed}"
        settings = {**recipe.asdict(), **arm.changes, "seed": seed}
        figures = figures_of(folder, settings, arm.variant, which)
        shown = ", ".join(
            f"{FIGURES[name]} {value:.1%}" for name, value in figures.items()
        )
        print(f"{arm.name}, seed {seed}: {shown}", flush=True)
        return figures

    each = [(seed, arm) for seed in seeds for arm in arms]
    first = [one(*each[0])]  # alone, so that the others reuse its views
    with ThreadPoolExecutor(jobs) as pool:
        rest = pool.map(lambda pair: one(*pair), each[1:])
        figures = [*first, *rest]
    found = {
        arm.name: [f for (_, a), f in zip(each, figures, strict=True) if a is arm]
        for arm in arms
    }
    return {
        name: {key: np.array([one[key] for one in runs]) for key in FIGURES}
        for name, runs in found.items()
    }


def figures_of(
    folder: Path, settings: Mapping[str, Any], variant: str = "", which: str = "best"
) -> dict[str, float]:
    """The figures of one run, which is trained or resumed if necessary.

    `which="untested"` does not use the test photos.
    """
    settings = Recipe.of(settings).asdict()
    began = (folder / "run.json").exists() and Run.open(folder).settings
    if began and Recipe.of({**BEFORE, **began}).asdict() != settings:
        sys.exit(
            f"The run in {str(folder)!r} has other settings. Use another --out, or "
            "remove the run."
        )
    last = "training.json" if which == "untested" else "evaluation_test.json"
    if not (folder / last).exists():
        asked = [str(folder), variant, json.dumps(settings), which]
        if subprocess.run(
            [sys.executable, "-m", "benchmarks.trainings", *asked]
        ).returncode:
            sys.exit("A training run failed. Run the same command again to resume it.")
    run = Run(folder, {})
    validated = run.read("training.json")["val_accuracy"]
    if which == "untested":
        return {"val_top1": validated}
    metrics = run.read("evaluation_test.json")["metrics"]
    if which == "last":
        rows = csv.DictReader((folder / "log.csv").read_text("utf-8").splitlines())
        validated = float(list(rows)[-1]["val_accuracy"])
    return {
        "val_top1": validated,
        **{key: metrics[key]["value"] for key in list(FIGURES)[1:]},
    }


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean of `first - second` over the seeds, and its paired 95 % t-interval.

    With a single seed there is no interval, and both ends are NaN.
    """
    from scipy import stats

    differences = np.asarray(first) - np.asarray(second)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, float("nan"), float("nan")
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    return mean, float(low), float(high)


def points(value: tuple[float, float, float]) -> str:
    """A difference and its interval, in percentage points."""
    mean, low, high = (100 * x for x in value)
    if np.isnan(low):
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation of shares, in percent."""
    mean = f"{100 * values.mean():.2f}"
    return f"{mean} ± {100 * values.std(ddof=1):.2f}" if len(values) > 1 else mean


def variant_of(recipe: Recipe) -> str:
    """The dataset and the backbone, for the name of a record."""
    return f"{Path(recipe.data).name}_{recipe.backbone or 'tiny'}"


def protocol(recipe: Recipe, seeds: Sequence[int], which: str = "best") -> str:
    """Describes what all arms have in common."""
    frozen = ""
    if recipe.freeze_fraction:
        frozen = f"the first {recipe.freeze_fraction:.0%} of its layers frozen, "
    if recipe.cached_views:
        frozen += f"the same {recipe.cached_views} views of each photo for all runs, "
    return (
        f"{Path(recipe.data).name}, {recipe.backbone or 'tiny'} at "
        f"{recipe.image_size or 'its own'} px, {frozen}"
        f"{recipe.head_phase_epochs} head epochs and "
        f"{recipe.epochs} epochs of all layers, seeds {', '.join(map(str, seeds))}; "
        + {
            "best": "the epoch is chosen on validation, and each run is tested once.",
            "untested": "the best epoch on validation; the test photos were not used.",
            "last": "the model of the last epoch is tested, once.",
        }[which]
    )


def tested(run: Run, which: str) -> None:
    """Evaluates on the test photos once; saves figures and logits in the run folder."""
    from keras_apinet.evaluate.evaluation import judge

    judged = judge(run, "test", which=which, bootstrap=0)
    np.savez(
        run.folder / "logits_test.npz",
        logits=judged.seen.logits,
        labels=judged.seen.labels,
        temperature=judged.temperature,
    )
    run.write("evaluation_test.json", judged.result)


def main(folder: str, variant: str, settings: str, which: str = "best") -> None:
    """Trains or resumes a run in the child process, then evaluates it."""
    from keras_apinet.cli.startup import start_backend

    start_backend()
    # A process that trains and evaluates has many models, which TensorFlow mistakes for
    # repeated retracing of one function, and warns.
    logging.getLogger("tensorflow").setLevel("ERROR")
    from keras_apinet.train import resume, train

    variants.VARIANTS[variant]()
    if (Path(folder) / "run.json").exists():
        run = resume(folder, verbose="plain")
    else:
        run = train(Recipe.of(json.loads(settings)), folder, "plain")
    if which != "untested":
        tested(run, which)


if __name__ == "__main__":
    main(*sys.argv[1:])
