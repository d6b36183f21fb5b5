"""`keras-apinet add`."""

import argparse

from keras_apinet.cli.classes import add_run_arguments, tell
from keras_apinet.errors import APINetError

HELP = "add classes to a run from a few photos, in seconds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the new classes' photos and where the new run goes."""
    add_run_arguments(parser)
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "PHOTO"),
        help="a new class and its photos; may be given several times",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="a folder of class folders, one for each new class",
    )
    parser.add_argument("--data", help="where the run's data set is now, if it moved")


def run(args: argparse.Namespace) -> int:
    """Makes the new run."""
    from keras_apinet.train.classes import add_classes

    if bool(args.source) == bool(args.classes):
        raise APINetError(
            "Give either --class NAME PHOTO ... or --from FOLDER, to say what to add."
        )
    names = [name for name, *_ in args.classes]
    for name, *photos in args.classes:
        if not photos or names.count(name) > 1:
            raise APINetError(
                f"--class {name!r} needs its photos, all of them in one --class; give "
                "them after the name."
            )
    photos = args.source or {name: rest for name, *rest in args.classes}
    tell(
        add_classes(
            args.run_folder, photos, args.out, refit=args.refit, moved=args.data
        )
    )
    return 0
