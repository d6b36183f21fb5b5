"""What `keras-apinet add`, `remove` and `merge` have in common."""

import argparse
from typing import Any

from keras_apinet.errors import printable


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, where the new one goes, and whether the head is fitted again."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder; it stays")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the new run goes"
    )
    parser.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="leave the old classes' weights exactly as they are",
    )


def add_class_names(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds the classes of the run that are meant."""
    parser.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        required=True,
        metavar="NAME",
        help=text,
    )


def tell(change: Any) -> None:
    """Says where the new run is, and what the change cost the classes that stay."""
    from keras_apinet.shares import percent

    folder = printable(change.run.folder)
    print(f"Run folder: {folder} ({len(change.run.class_names):,} classes)")
    old, new = change.images
    if change.before is None or change.after is None:
        print("Without validation photos nobody knows what this cost the old classes.")
    else:
        print(
            f"Classes that were there: {percent(change.after)} right of {old:,} "
            f"validation photos, {percent(change.before)} before"
        )
    if change.new is not None:
        print(f"New classes: {percent(change.new)} right of {new:,} validation photos")
    elif change.photos:
        print("No photo of the new classes was held out, so they are not measured.")
    print(f"Next: keras-apinet evaluate {folder}")
