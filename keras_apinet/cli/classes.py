"""`keras-apinet add`, `remove` and `merge`: other classes for a run, in seconds."""

import argparse
from types import SimpleNamespace
from typing import Any

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the new classes' photos, and where the data is."""
    _add_run_arguments(parser)
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


def _remove_arguments(parser: argparse.ArgumentParser, verb: str = "remove") -> None:
    _add_run_arguments(parser)
    parser.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"the classes to {verb}",
    )


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    _remove_arguments(parser, "merge")
    parser.add_argument("--into", required=True, metavar="NAME", help="what to call it")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run and its data, where the new one goes, and how the head is made."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder; it stays")
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the new run goes"
    )
    parser.add_argument(
        "--no-refit",
        dest="refit",
        action="store_false",
        help="leave the old classes' weights exactly as they are",
    )
    add_options(parser, "--moved", "--data-dir")


def _add(args: argparse.Namespace) -> int:
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
    """Says where the new run is, and what the change cost the classes that stay."""
    from keras_apinet.shares import percent

    folder = printable(change.run.folder)
    print(f"Run folder: {folder} ({len(change.run.class_names):,} classes)")
    old, new = change.images
    if change.before is None or change.after is None:
        print("Without validation photos nobody knows what this cost the old classes.")
    else:
        print(
            f"Classes that were there: {percent(change.after)} right of {old:,} "
            f"validation photos, {percent(change.before)} before"
        )
    if change.new is not None:
        print(f"New classes: {percent(change.new)} right of {new:,} validation photos")
    elif change.photos:
        print("No photo of the new classes was held out, so they are not measured.")
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
        HELP="make one class of several of a run, in seconds",
        add_arguments=_merge_arguments,
        run=_merge,
    ),
}
