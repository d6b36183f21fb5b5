"""`keras-apinet report`."""

import argparse

from keras_apinet.cli.options import add_run, check_run
from keras_apinet.errors import printable

HELP = "write a self-contained HTML report of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the split and the output options."""
    add_run(parser, "--split", "--ignore-unknown", "--force")
    parser.add_argument(
        "--out", metavar="FILE", help="output file (default: RUN/report.html)"
    )


prepare = check_run


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
