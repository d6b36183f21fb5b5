"""`keras-apinet report`."""

import argparse

from keras_apinet.cli.evaluate import add_data_arguments
from keras_apinet.errors import printable

HELP = "write one self-contained HTML report about a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the split and where to write."""
    add_data_arguments(parser)
    parser.add_argument(
        "--split", help="split to evaluate (default: test, or val if there is none)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where to write (default: RUN/report.html)"
    )
    parser.add_argument(
        "--ignore-unknown",
        action="store_true",
        help="leave out images of classes that the model does not know",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace what this package wrote there; nothing else is replaced",
    )


def prepare(args: argparse.Namespace) -> bool:
    """Checks run and data before the backend starts."""
    from keras_apinet.cli import evaluate

    return evaluate.prepare(args)


def run(args: argparse.Namespace) -> int:
    """Writes the report."""
    from keras_apinet.evaluate.report import write_report

    path = write_report(
        args.run_folder,
        args.out,
        split=args.split,
        which=args.which,
        data=args.data,
        data_dir=args.data_dir,
        ignore_unknown=args.ignore_unknown,
        force=args.force,
    )
    print(f"{printable(path)} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
