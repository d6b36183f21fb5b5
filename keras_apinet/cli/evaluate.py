"""`keras-apinet evaluate`."""

import argparse
from typing import Any

from keras_apinet.cli.options import add_run, check_run
from keras_apinet.errors import printable, short
from keras_apinet.files.bounds import SHARE
from keras_apinet.files.schema import to_json

HELP = "evaluate a trained model: accuracy, calibration, retrieval, confused pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_run(
        parser, "--split", "--batch-size", "--bootstrap", "--ignore-unknown", "--json"
    )
    parser.add_argument(
        "--tta",
        choices=("flip", "five_crop"),
        help="also report test-time augmentation: the mean over several views",
    )
    parser.add_argument(
        "--foreign",
        metavar="FOLDER",
        help="folder of photos of unknown classes: also measure their detection",
    )
    parser.add_argument(
        "--confidence",
        type=SHARE,
        metavar="X",
        help="also report accuracy and depth of the answers at this probability, with "
        "families in place of classes that do not reach it",
    )
    parser.add_argument(
        "--families",
        metavar="FILE",
        help="CSV file with columns class and family, stored in the run (default: from "
        "the data set, or clusters of confused classes)",
    )


prepare = check_run


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
    if args.foreign or args.confidence is not None or args.families:
        from keras_apinet.open_world.fitting import measure_open

        result |= measure_open(
            args.run_folder,
            split=result["split"],
            which=args.which,
            data=args.data,
            data_dir=args.data_dir,
            ignore_unknown=args.ignore_unknown,
            foreign=args.foreign,
            confidence=args.confidence,
            families=args.families,
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

    from keras_apinet.evaluate.measures import calibration_words
    from keras_apinet.shares import TITLES, cells, interval, percent

    console = Console(highlight=False)

    of = f"{result['split']} split"
    if result["given"]:
        of = "all of it as a test set" if result["whole"] else f"its {of}"
    console.print(
        Text(
            printable(f"{result['data']}, {of}") + f": {result['images']:,} images, "
            f"{result['classes']} classes, {result['errors']:,} errors"
        )
    )
    for key, what in (
        ("unreadable", "images could not be read and were skipped"),
        ("classes_without_images", "classes have no images in this split"),
    ):
        if result[key]:
            console.print(Text(f"{len(result[key]):,} {what}"))

    columns = [("", result["metrics"])]
    if result.get("tta"):
        columns.append((result["tta"]["views"], result["tta"]["metrics"]))
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    for title in ("value", "95 % interval", "images"):
        table.add_column(title, justify="right", no_wrap=True)
    for prefix, metrics in columns:
        for name, figure in metrics.items():
            title = f"{TITLES[name]} ({prefix})" if prefix else TITLES[name]
            table.add_row(title, *cells(name, figure))
    calibrated = result["calibrated"]
    if calibrated and calibrated["temperature"] != 1:
        at = f" at temperature {calibrated['temperature']:.2f}"
        for name in ("nll", "ece"):
            table.add_row(TITLES[name] + at, *cells(name, calibrated[name]))
    console.print(table)

    if result["confused_pairs"]:
        pairs = Table(box=None, pad_edge=False)
        for title in ("most confused", ""):
            pairs.add_column(title)
        pairs.add_column("errors", justify="right", no_wrap=True)
        for pair in result["confused_pairs"][:5]:
            first, second = (Text(short(name)) for name in pair["classes"])
            pairs.add_row(first, second, f"{pair['errors']} of {pair['of']}")
        console.print("", pairs)
    for level, figures in result["groups"].items():
        shares = [
            f"{percent(figures[name])} ({interval(*figures['intervals'][name])})"
            for name in ("top1_of_group", "top1_within_group")
        ]
        console.print(
            Text(
                f"\n{printable(level)}: group accuracy {shares[0]}, class accuracy "
                f"within the group {shares[1]}, on {figures['images']:,} images"
            )
        )
    reason = calibrated and calibrated.get("reason")
    told = [*calibration_words(result), *([reason] if reason else [])]
    told += result.get("open", [])
    told += [f"Warning: {sentence}" for sentence in result["warnings"]]
    for sentence in told:
        console.print(Text(f"\n{printable(sentence)}"))
