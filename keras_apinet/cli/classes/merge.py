"""`keras-apinet merge`."""

import argparse

from keras_apinet.cli.classes import add_class_names, add_run_arguments, tell

HELP = "make one class of several of a run, in seconds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the classes, their name and where the new run goes."""
    add_run_arguments(parser)
    add_class_names(parser, "the classes to merge")
    parser.add_argument("--into", required=True, metavar="NAME", help="what to call it")


def run(args: argparse.Namespace) -> int:
    """Makes the new run."""
    from keras_apinet.train.classes import merge_classes

    tell(
        merge_classes(
            args.run_folder, args.classes, args.into, args.out, refit=args.refit
        )
    )
    return 0
