"""`keras-apinet card`."""

import argparse

from keras_apinet.errors import printable

HELP = "write a Markdown model card from an evaluated run"
STARTS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the split, the license and where to write."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder written by train")
    parser.add_argument(
        "--split",
        help="split to report (default: test, or val if only that was evaluated)",
    )
    parser.add_argument("--license", metavar="NAME", help="license of the model (SPDX)")
    parser.add_argument(
        "--out", metavar="FILE", help="where to write (default: RUN/MODEL_CARD.md)"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace what this package wrote there; nothing else is replaced",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the card."""
    from keras_apinet.evaluate.pages import write_card

    path = write_card(
        args.run_folder,
        args.out,
        split=args.split,
        license_name=args.license,
        force=args.force,
    )
    print(printable(path))
    return 0
