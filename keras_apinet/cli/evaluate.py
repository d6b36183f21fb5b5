"""`keras-apinet evaluate`."""

import argparse
from typing import Any

from keras_apinet.bounds import BATCH_SIZE, BOOTSTRAP
from keras_apinet.errors import printable
from keras_apinet.schema import to_json

HELP = "measure a trained model: accuracy, calibration, retrieval, confused pairs"

_TITLES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mean_per_class_accuracy": "mean per-class accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "nll": "negative log-likelihood",
    "ece": "expected calibration error",
    "recall@1": "retrieval recall@1",
    "recall@5": "retrieval recall@5",
    "map@r": "retrieval MAP@R",
}


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, which of its models, and where its data is now."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder of train")
    parser.add_argument(
        "--which", choices=("best", "last"), default="best", help="model of the run"
    )
    parser.add_argument("--data", help="where the data set is now, if it moved")
    parser.add_argument("--data-dir", help="where TensorFlow Datasets data is now")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_data_arguments(parser)
    parser.add_argument(
        "--split", help="split to evaluate (default: test, or val if there is none)"
    )
    parser.add_argument(
        "--tta",
        choices=("flip", "five_crop"),
        help="also report the mean over several views of each image",
    )
    parser.add_argument(
        "--batch-size",
        type=BATCH_SIZE,
        default=64,
        metavar="N",
        help="images at a time",
    )
    parser.add_argument(
        "--bootstrap",
        type=BOOTSTRAP,
        default=1000,
        metavar="N",
        help="samples for the 95 %% intervals; 0 for none (default: 1000)",
    )
    parser.add_argument(
        "--ignore-unknown",
        action="store_true",
        help="leave out images of classes that the model does not know",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON instead of tables"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from keras_apinet.evaluate import evaluate_run

    result = evaluate_run(
        args.run_folder,
        args.split,
        which=args.which,
        data=args.data,
        data_dir=args.data_dir,
        tta=args.tta,
        batch_size=args.batch_size,
        bootstrap=args.bootstrap,
        ignore_unknown=args.ignore_unknown,
    )
    if args.json:
        print(to_json(result))
    else:
        show(result)
    return 0


def show(result: dict[str, Any]) -> None:
    """Prints an evaluation as tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(
        Text(
            printable(f"{result['data']}, {result['split']}")
            + f": {result['images']:,} images, "
            f"{result['classes']} classes, {result['errors']:,} errors"
        )
    )
    for key, what in (
        ("left_out", "images of unknown classes left out"),
        ("unreadable", "images could not be read and were left out"),
        ("classes_without_images", "classes have no image here"),
    ):
        count = result[key] if isinstance(result[key], int) else len(result[key])
        if count:
            console.print(Text(f"{count:,} {what}"))

    columns = [("", result["metrics"])]
    if result.get("tta"):
        columns.append((result["tta"]["views"], result["tta"]["metrics"]))
    table = Table("figure", "value", "95 % interval", box=None, pad_edge=False)
    for prefix, metrics in columns:
        for name, figure in metrics.items():
            title = f"{_TITLES[name]} ({prefix})" if prefix else _TITLES[name]
            table.add_row(title, *_cells(name, figure))
    if result["calibrated"]:
        at = f" at temperature {result['calibrated']['temperature']:.2f}"
        for name in ("nll", "ece"):
            cells = _cells(name, result["calibrated"][name])
            table.add_row(_TITLES[name] + at, *cells)
    console.print(table)

    if result["confused_pairs"]:
        pairs = Table("most confused", "", "errors", "share", box=None, pad_edge=False)
        for pair in result["confused_pairs"][:5]:
            first, second = (Text(_short(name)) for name in pair["classes"])
            pairs.add_row(first, second, str(pair["errors"]), f"{pair['share']:.1%}")
        console.print("", pairs)
    for level, figures in result["groups"].items():
        console.print(
            Text(
                f"\n{printable(level)}: right group {figures['top1_of_group']:.1%}, "
                f"right class among the group's {figures['top1_within_group']:.1%}"
            )
        )


def _cells(name: str, figure: dict[str, Any]) -> tuple[str, str]:
    form = "{:.3f}" if name in ("nll", "ece") else "{:.1%}"
    if figure["value"] is None:
        return "-", ""
    value = form.format(figure["value"])
    if figure["low"] is None:
        return value, ""
    return value, f"{form.format(figure['low'])} to {form.format(figure['high'])}"


def _short(name: str, length: int = 40) -> str:
    name = printable(name)
    return name if len(name) <= length else name[: length - 1] + "…"
