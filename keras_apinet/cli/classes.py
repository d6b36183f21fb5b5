"""`keras-apinet add`, `remove` and `merge`: change the classes of a run."""

import argparse
from types import SimpleNamespace
from typing import Any

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the photos of the new classes and the location of the data."""
    _add_run_arguments(parser)
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME", "PHOTO"),
        help="a new class and its photos; may be repeated",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="FOLDER",
        help="a folder with one subfolder of photos for each new class",
    )


def _remove_arguments(parser: argparse.ArgumentParser, verb: str = "remove") -> None:
    _add_run_arguments(parser)
    parser.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"classes to {verb}",
    )


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    _remove_arguments(parser, "merge")
    parser.add_argument(
        "--into", required=True, metavar="NAME", help="name of the merged class"
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run and its data, the output folder, and how to fit the head."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder (unchanged)")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="folder for the new run"
    )
    parser.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="keep the weights of the existing classes unchanged",
    )
    add_options(parser, "--moved", "--data-dir")


def _add(args: argparse.Namespace) -> int:
    from keras_apinet.train.classes import add_classes

    if bool(args.source) == bool(args.classes):
        raise APINetError(
            "Give the new photos with either --class NAME PHOTO ... or --from FOLDER."
        )
    names = [name for name, *_ in args.classes]
    for name, *photos in args.classes:
        if not photos or names.count(name) > 1:
            raise APINetError(
                f"--class {name!r} needs all of its photos in one --class option; list "
                "them after the name."
            )
    photos = args.source or {name: rest for name, *rest in args.classes}
    return _tell(add_classes(args.run_folder, photos, args.out, **_options(args)))


def _remove(args: argparse.Namespace) -> int:
    from keras_apinet.train.classes import remove_classes

    return _tell(
        remove_classes(args.run_folder, args.classes, args.out, **_options(args))
    )


def _merge(args: argparse.Namespace) -> int:
    from keras_apinet.train.classes import merge_classes

    found = (args.run_folder, args.classes, args.into, args.out)
    return _tell(merge_classes(*found, **_options(args)))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {"refit": args.refit, "moved": args.data, "data_dir": args.data_dir}


def _tell(change: Any) -> int:
    """Prints the new run folder and the accuracy before and after the change."""
    from keras_apinet.shares import percent

    folder = printable(change.run.folder)
    print(f"Run folder: {folder} ({len(change.run.class_names):,} classes)")
    old, new = change.images
    if change.before is None or change.after is None:
        print("There are no validation photos to measure the existing classes on.")
    else:
        print(
            f"Existing classes: accuracy {percent(change.after)} on {old:,} "
            f"validation photos ({percent(change.before)} before)"
        )
    if change.new is not None:
        print(
            f"New classes: accuracy {percent(change.new)} on {new:,} validation photos"
        )
    elif change.photos:
        print("No photos of the new classes were held out to measure them on.")
    print(f"Next: keras-apinet evaluate {folder}")
    return 0


COMMANDS = {
    "add": SimpleNamespace(
        HELP="add classes to a run from a few photos, in seconds",
        add_arguments=_add_arguments,
        run=_add,
    ),
    "remove": SimpleNamespace(
        HELP="remove classes from a run, in seconds",
        add_arguments=_remove_arguments,
        run=_remove,
    ),
    "merge": SimpleNamespace(
        HELP="merge several classes of a run into one, in seconds",
        add_arguments=_merge_arguments,
        run=_merge,
    ),
}
