"""`keras-apinet advise`."""

import argparse
from textwrap import fill

from keras_apinet.cli.options import add_options
from keras_apinet.errors import printable
from keras_apinet.files.bounds import PHOTOS
from keras_apinet.files.schema import to_json

HELP = "suggest which classes need more photos, and estimate the accuracy gain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run and the number of new photos."""
    add_options(parser, "run_folder", "--which", "--moved", "--data-dir", "--json")
    parser.add_argument(
        "--photos",
        type=PHOTOS,
        default=60,
        metavar="N",
        help="number of new photos you can take (default: 60)",
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
        # Wrap for the terminal without splitting words.
        print(fill(printable(told), 79, subsequent_indent="  ", break_long_words=False))
    if not found:
        print("No class has errors that more photos would reduce.")
    return 0
