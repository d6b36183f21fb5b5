"""`keras-apinet advise`."""

import argparse
from textwrap import fill

from keras_apinet.cli.options import add_options
from keras_apinet.errors import printable
from keras_apinet.files.bounds import PHOTOS
from keras_apinet.files.schema import to_json

HELP = "say which classes to photograph next, and what that should gain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run and how many photos are to be taken."""
    add_options(parser, "run_folder", "--which", "--moved", "--data-dir", "--json")
    parser.add_argument(
        "--photos",
        type=PHOTOS,
        default=60,
        metavar="N",
        help="photos that can be taken (default: 60)",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the advice."""
    from dataclasses import asdict

    from keras_apinet.open_world.advice import advise_run, sentences

    found = advise_run(
        args.run_folder,
        args.photos,
        which=args.which,
        data=args.data,
        data_dir=args.data_dir,
    )
    if args.json:
        print(to_json({"advice": [asdict(advice) for advice in found]}))
        return 0
    for told in sentences(found):
        # On a terminal no word is cut in two.
        print(fill(printable(told), 79, subsequent_indent="  ", break_long_words=False))
    if not found:
        print("No class makes errors that more photos would help with.")
    return 0
