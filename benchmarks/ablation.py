"""Ablation: the contribution of each part of the method, as in the paper.

    python -m benchmarks.ablation --data FOLDER --weights FILE [--seeds 0]
        [--arms NAME ...] [--set NAME=VALUE ...] [--out runs/ablation]

Each arm makes one change to the recipe; everything else, including the number of
epochs, is equal. With `--set epochs=0`, only the head is trained, on features that are
computed once: minutes on a CPU. If it is stopped, the same command continues. The model
of the last epoch is evaluated, because selecting an epoch on few validation photos adds
more noise to a short run than the difference between most arms. This was decided after
first results with the best epoch, including test results, had been seen.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.trainings import (
    FIGURES,
    Arm,
    add_arguments,
    difference,
    measured,
    points,
    protocol,
    recipe_of,
    spread,
    variant_of,
)

# P x K of 120 images, as in the paper's 30 x 4.
SHAPES = ((8, 15), (12, 10), (15, 8), (20, 6), (30, 4), (40, 3), (60, 2))

ARMS = [
    Arm("full"),
    Arm("baseline", {"method": "baseline"}),
    Arm("without gates", variant="without_gates"),
    Arm("without ranking loss", {"ranking_weight": 0.0}),
    Arm("self only", variant="self_only"),
    Arm("intra pairs only", {"inter": "none"}),
    Arm("inter pairs only", {"intra": "none"}),
    Arm("farthest partners", {"intra": "farthest", "inter": "farthest"}),
    Arm("farthest of the class, nearest of others", {"intra": "farthest"}),
    Arm("random partners", {"intra": "random", "inter": "random"}),
    *(
        Arm(f"{p} x {k} images", {"classes_per_batch": p, "images_per_class": k})
        for p, k in SHAPES
    ),
    *(Arm(f"margin {m:g}", {"margin": m}) for m in (0.0, 0.02, 0.1, 0.2)),
    *(Arm(f"ranking weight {w:g}", {"ranking_weight": w}) for w in (0.5, 2.0, 5.0)),
    # Not in the paper.
    Arm("partners by angle", {"distance": "cosine"}),
    # Combinations, chosen after the three-seed results of their parts had been seen.
    Arm(
        "farthest of the class, nearest of others, by angle",
        {"distance": "cosine", "intra": "farthest"},
    ),
    Arm(
        "random of the class, nearest of others by angle",
        {"distance": "cosine", "intra": "random"},
    ),
    Arm(
        "by angle, loss of single images as well",
        {"distance": "cosine", "single_image_weight": 1.0},
    ),
    Arm("ReLU in the mutual MLP", variant="nonlinear_mutual"),
    Arm("loss of single images as well", {"single_image_weight": 1.0}),
    Arm("gates before pooling", variant="gates_before_pooling"),
    Arm("temperature 0.5", variant="temperature_half"),
    Arm("temperature 2", variant="temperature_2"),
    Arm("look-alike classes in a batch", variant="look_alikes_meet"),
    Arm("memory of 480 features", {"memory_size": 480}),
    Arm("no dropout", {"dropout_rate": 0.0}),
    Arm("no label smoothing", {"label_smoothing": 0.0}),
]


def draw(
    found: dict[str, dict[str, np.ndarray]], arms: Sequence[Arm], path: Path
) -> None:
    """Plots each arm's test accuracy: mean, every seed, and the full method's mean."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # A fixed salt makes the file reproducible.
    matplotlib.rcParams["svg.hashsalt"] = "ablation"
    figure, axes = pyplot.subplots(figsize=(8, 0.27 * len(arms) + 1))
    for row, arm in enumerate(arms):
        values = 100 * found[arm.name]["top1"]
        axes.plot(values, [row] * len(values), ".", color="tab:gray")
        axes.plot(values.mean(), row, "o", color="tab:blue")
    full = 100 * found[arms[0].name]["top1"].mean()
    axes.axvline(full, color="tab:blue", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.invert_yaxis()
    axes.set_xlabel("test top-1, %")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Prints and records the table and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    add_arguments(parser, "runs/ablation", [0])
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    recipe = recipe_of(args)
    arms = [arm for arm in ARMS if arm.name in {"full", *args.arms}]
    found = measured(recipe, arms, args.seeds, args.out, args.jobs, "last")
    full = found["full"]
    rows = [
        [arm.name]
        + [spread(found[arm.name][key]) for key in FIGURES]
        + [points(difference(found[arm.name]["top1"], full["top1"]))]
        for arm in arms
    ]
    for row in rows:
        print(f"{row[0]:54}" + "".join(f"{cell:18}" for cell in row[1:]))
    count = len(args.seeds)
    variant = f"{variant_of(recipe)}_{count}_seed{'s' if count > 1 else ''}"
    name = f"{results.stem('ablation', variant)}.svg"
    draw(found, arms, results.FOLDER / name)
    results.record(
        "ablation",
        "Ablation: contribution of each part",
        ["arm", *(f"{title}, %" for title in FIGURES.values()), "test top-1 - full"],
        rows,
        f"{protocol(recipe, args.seeds, 'last')} This rule was adopted after first "
        "results with the best epoch, including test results, had been seen. Full: "
        f"{recipe.classes_per_batch} x "
        f"{recipe.images_per_class} images, margin {recipe.margin:g}, ranking weight "
        f"{recipe.ranking_weight:g}, {recipe.intra} intra and {recipe.inter} inter "
        "partners. Every arm sees the same number of images; larger batches mean fewer "
        "steps.",
        variant=variant,
        figure=name,
    )


if __name__ == "__main__":
    main()
