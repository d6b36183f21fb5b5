r"""Tuning trials on validation photos, as many for the baseline as for pairs.

    python -m benchmarks.tuning --recipe training/cub_efficientnet_lite0.toml \
        --data FOLDER --weights FILE --set validation=0.2 [--out runs/tuning]

The trials run in the order of `TRIALS`, each for pairs and for plain cross-entropy, and
do not use the test photos. `accuracy` has the best settings for the baseline, and the
recipe those for pairs. If it is stopped, the same command continues.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.results import record
from benchmarks.trainings import (
    Arm,
    add_arguments,
    figures_of,
    protocol,
    recipe_of,
    variant_of,
)

PAIRS: dict[str, Any] = {
    "distance": "cosine",
    "single_image_weight": 1.0,
    "residual_weight": 1.0,
    "learning_rate": 5e-4,
    "label_smoothing": 0.1,
    "freeze_fraction": 0.75,
    "cached_views": 6,
    "epochs": 8,
}
PLAIN = PAIRS | {
    "method": "baseline",
    "distance": "euclidean",
    "single_image_weight": 0.0,
}
RATE = {"learning_rate": 1e-3}
HALF = {"learning_rate": 5e-4}
BEST = PAIRS | RATE | {"residual_weight": 0.5}
MORE = {"freeze_fraction": 0.4, "cached_views": 10, "epochs": 12}
SHORT = {"epochs": 6}
# Ideas, each tried with the same budget and three quarters of the layers frozen.
SCREENED: list[tuple[str, dict[str, Any], str]] = [
    ("as before", {}, ""),
    ("cross-entropy among the 15 likeliest classes", {}, "likeliest_15"),
    ("averaged weights as teacher", {}, "averaged_teacher"),
    ("mixup", {}, "mixup"),
    ("CutMix", {}, "cutmix"),
    ("layer-wise rates, decay 0.9", {"layer_decay": 0.9}, ""),
]
NOTE = (
    " More layers: 40% frozen, 10 views, 12 epochs. Six epochs: the best trials with "
    "eight (3 and 2), one idea added. Mixup and CutMix mix the cached outputs of the "
    "frozen layers. Trial 5 did not help, so it was not run for the baseline."
)
# The trials, each for pairs and for the baseline, in order.
TRIALS: list[tuple[Arm, ...]] = [
    (Arm("as at first", PAIRS), Arm("as at first", PLAIN)),
    (Arm("rate 1e-3", PAIRS | RATE), Arm("rate 1e-3", PLAIN | RATE)),
    (
        Arm("rate 1e-3, gates around one", BEST),
        Arm("rate 1e-3, smoothing 0.2", PLAIN | RATE | {"label_smoothing": 0.2}),
    ),
    (
        Arm("rate 1e-3, gates around one, more layers", BEST | MORE),
        Arm("rate 1e-3, more layers", PLAIN | RATE | MORE),
    ),
    # No gain, so it was not tried for the baseline.
    (Arm("rate 5e-4, gates around one, more layers", BEST | MORE | HALF),),
    *(
        (
            Arm(f"six epochs: {what}", BEST | SHORT | changes, variant),
            Arm(f"six epochs: {what}", PLAIN | RATE | SHORT | changes, variant),
        )
        for what, changes, variant in SCREENED
    ),
]


def main() -> None:
    """Trains the missing runs, prints and records the results."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    add_arguments(parser, "runs/tuning", [0])
    args = parser.parse_args()
    recipe, out = recipe_of(args), Path(args.out)
    if recipe.cached_views and recipe.cached_views_dir is None:
        recipe = dataclasses.replace(recipe, cached_views_dir=str(out / "views"))
    (seed,) = args.seeds
    rows = []
    for trial in TRIALS:
        found: list[str] = []
        for method, arm in zip(("pairs", "baseline"), trial, strict=False):
            folder = out / f"{method}_{arm.name.replace(' ', '_')}"
            settings = {**recipe.asdict(), **arm.changes, "seed": seed}
            validated = figures_of(folder, settings, arm.variant, "untested")
            best = json.loads((folder / "training.json").read_text())["best_epoch"]
            found.append(f"{100 * validated['val_top1']:.1f} (epoch {best})")
        what = " / ".join(dict.fromkeys(arm.name for arm in trial))
        rows.append([str(len(rows) + 1), what, *[*found, "-"][:2]])
        print("  ".join(rows[-1]), flush=True)
    record(
        "tuning",
        "Tuning trials on validation, in order of execution: top-1, %",
        ["trial", "settings", "pairs", "baseline"],
        rows,
        protocol(recipe, args.seeds, "untested") + NOTE,
        variant=variant_of(recipe),
    )


if __name__ == "__main__":
    main()
