"""Options that several commands have, each with one meaning and one help text."""

import argparse
from typing import Any

from keras_apinet.files.bounds import BATCH_SIZE, BOOTSTRAP

_OPTIONS: dict[str, dict[str, Any]] = {
    "run_folder": {"metavar": "RUN", "help": "run folder written by train"},
    "--which": {
        "choices": ("best", "last"),
        "default": "best",
        "help": "model of the run (default: best)",
    },
    "--data": {
        "help": "where the data set is now, if it moved; or another one to test on: "
        "its test split, or all of its images if it has no splits",
    },
    # For what works on the photos that the run was trained on, and no others.
    "--moved": {"help": "where the run's data set is now, if it moved"},
    "--data-dir": {"help": "where TensorFlow Datasets data is now"},
    "--split": {
        "help": "split to evaluate (default: test, or val if there is none)",
    },
    "--batch-size": {
        "type": BATCH_SIZE,
        "default": 64,
        "metavar": "N",
        "help": "images at a time",
    },
    "--bootstrap": {
        "type": BOOTSTRAP,
        "default": 1000,
        "metavar": "N",
        "help": "samples for the 95 %% intervals of figures other than shares of "
        "images; 0 for none (default: 1000)",
    },
    "--ignore-unknown": {
        "action": "store_true",
        "help": "leave out images of classes that the model does not know",
    },
    "--json": {"action": "store_true", "help": "print JSON"},
    "--force": {
        "action": "store_true",
        "help": "replace what this package wrote there; nothing else is replaced",
    },
}


def add_options(parser: Any, *names: str) -> None:
    """Adds some of them, by their names, to a parser or a group of one."""
    for name in names:
        flag = "--data" if name == "--moved" else name
        parser.add_argument(flag, **_OPTIONS[name])


def add_run(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds the run, which of its models, where its data is now, and other options."""
    add_options(parser, "run_folder", "--which", "--data", "--data-dir", *names)


def check_run(args: argparse.Namespace) -> bool:
    """Checks run and data before the backend starts: the `prepare` of a command."""
    from keras_apinet.data.loading import check_source
    from keras_apinet.runs import Run

    Run.open(args.run_folder)
    if args.data:
        check_source(args.data, args.data_dir)
    return False
