"""Checks that the default recipe learns with every family of backbones.

    python -m benchmarks.families [NAME ...] [--weights NAME=FILE ...] [--steps 150]
        [--epochs 6] [--images-per-class 4] [--out runs/families]

Trains the smallest member of each family with one short run of the default recipe on
synthetic birds (18 species), with random weights or weights from `--weights`. The
failure to look for is a validation accuracy that stays at chance while training
accuracy improves, a symptom of lagging batch-norm statistics. With `--out`, the run
folders are kept, and the same command continues where it was stopped.
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.results import backend, line, record, table

FAMILIES = (
    "tiny",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "inception_resnet_v2",
    "inception_v3",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "nasnet_mobile",
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "xception",
)


def measure(
    name: str, weights: str, args: argparse.Namespace, folder: Path
) -> list[str]:
    """Trains one backbone and returns its row."""
    from keras_apinet.backbones import available
    from keras_apinet.train import Recipe, resume, train

    smallest = next(b for b in available() if b.name == name).smallest_image_size
    recipe = Recipe(
        backbone=name,
        weights=weights,
        image_size=max(64, smallest),
        epochs=args.epochs,
        steps_per_epoch=-(-args.steps // args.epochs),
        classes_per_batch=9,
        images_per_class=args.images_per_class,
    )
    place, began = folder / name, time.monotonic()
    if (place / "run.json").exists():
        run = resume(place, verbose="quiet")
        recipe = Recipe.of(run.settings)
    else:
        run = train(recipe, place, "quiet")
        run.write("seconds.json", time.monotonic() - began)
    seconds = run.read("seconds.json")  # unknown for an interrupted run
    rows = list(csv.DictReader((run.folder / "log.csv").read_text().splitlines()))
    rate = run.description["peak_learning_rate"]
    first, last = (float(rows[i]["accuracy"]) for i in (0, -1))
    best = run.read("training.json")["val_accuracy"]
    validated = [float(row["val_accuracy"]) for row in rows]
    stuck = last > 3 / 18 and max(validated) < 1.5 / 18
    return [
        name,
        "random" if recipe.weights == "none" else "given",
        str(recipe.image_size),
        f"{recipe.epochs} x {recipe.steps_per_epoch} x {9 * recipe.images_per_class}",
        f"{recipe.batch_norm}, {recipe.batch_norm_momentum}",
        f"{rate:g}",
        *(f"{share:.1%}" for share in (first, last, validated[-1], best)),
        "" if seconds is None else f"{seconds:.0f} s",
        "STUCK" if stuck else "",
    ]


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=150, help="total over all epochs")
    parser.add_argument("--images-per-class", type=int, default=4)
    parser.add_argument("--out", help="folder that keeps the runs")
    args = parser.parse_args()
    files = dict(pair.split("=", 1) for pair in args.weights)
    columns = ["backbone", "weights", "px", "epochs x steps x images"]
    columns += ["batch-norm, momentum", "learning rate"]
    columns += ["training, first epoch", "training, last", "validation, last"]
    columns += ["validation, best", "time", ""]
    print(table(columns, []), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.out or temporary)
        for name in args.names:
            weights = files.get(name, "none")
            rows.append(measure(name, weights, args, folder))
            print(line(rows[-1]), flush=True)
    record(
        "families",
        "A short run of the default recipe with every family of backbones",
        columns,
        rows,
        "Synthetic birds, 18 species; chance is 5.6 %. Each validation split has 360 "
        "images. Each row states how much was trained: existing runs keep their "
        "settings.",
        variant=backend(),
    )


if __name__ == "__main__":
    main()
