"""`keras-apinet remove`."""

import argparse

from keras_apinet.cli.classes import add_class_names, add_run_arguments, tell

HELP = "remove classes from a run, in seconds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the classes and where the new run goes."""
    add_run_arguments(parser)
    add_class_names(parser, "the classes to remove")


def run(args: argparse.Namespace) -> int:
    """Makes the new run."""
    from keras_apinet.train.classes import remove_classes

    tell(remove_classes(args.run_folder, args.classes, args.out, refit=args.refit))
    return 0
