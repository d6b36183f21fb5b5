"""Options shared by several commands, each with one meaning and one help text."""

import argparse
from typing import Any

from keras_apinet.files.bounds import BATCH_SIZE, BOOTSTRAP

_OPTIONS: dict[str, dict[str, Any]] = {
    "run_folder": {"metavar": "RUN", "help": "run folder written by train"},
    "--which": {
        "choices": ("best", "last"),
        "default": "best",
        "help": "which model of the run to use (default: best)",
    },
    "--data": {
        "help": "new location of the data set, if moved, or another data set to test "
        "on: its test split, or all of its images if it has no splits",
    },
    # For commands that need the data set that the run was trained on.
    "--moved": {"help": "new location of the run's data set, if moved"},
    "--data-dir": {"help": "TensorFlow Datasets directory"},
    "--split": {
        "help": "split to evaluate (default: test, or val if there is none)",
    },
    "--batch-size": {
        "type": BATCH_SIZE,
        "default": 64,
        "metavar": "N",
        "help": "batch size (default: 64)",
    },
    "--bootstrap": {
        "type": BOOTSTRAP,
        "default": 1000,
        "metavar": "N",
        "help": "bootstrap samples for the 95 %% intervals of metrics that are not "
        "fractions of images; 0 for no intervals (default: 1000)",
    },
    "--ignore-unknown": {
        "action": "store_true",
        "help": "skip images of classes that the model does not know",
    },
    "--json": {"action": "store_true", "help": "print JSON"},
    "--force": {
        "action": "store_true",
        "help": "replace existing output, if this package wrote it",
    },
}


def add_options(parser: Any, *names: str) -> None:
    """Adds options by name to a parser or an argument group."""
    for name in names:
        flag = "--data" if name == "--moved" else name
        parser.add_argument(flag, **_OPTIONS[name])


def add_run(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds the run, its model, the location of its data, and other options."""
    add_options(parser, "run_folder", "--which", "--data", "--data-dir", *names)


def check_run(args: argparse.Namespace) -> bool:
    """Checks the run and data before the backend starts; used as `prepare`."""
    from keras_apinet.data.loading import check_source
    from keras_apinet.runs import Run

    Run.open(args.run_folder)
    if args.data:
        check_source(args.data, args.data_dir)
    return False
