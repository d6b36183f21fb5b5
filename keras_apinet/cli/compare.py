"""`keras-apinet compare`."""

import argparse
import os

from keras_apinet.cli.options import add_options, check_run
from keras_apinet.errors import APINetError, printable

HELP = "show which regions a trained model uses to tell two photos apart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the photos, the model and the output options."""
    parser.add_argument("photo_a", metavar="A", help="image file")
    parser.add_argument("photo_b", metavar="B", help="image file")
    parser.add_argument(
        "--model", dest="run_folder", required=True, metavar="RUN", help="run folder"
    )
    parser.add_argument(
        "--classes",
        nargs=2,
        metavar=("CLASS_A", "CLASS_B"),
        help="classes to tell apart (default: the predicted classes)",
    )
    parser.add_argument(
        "--out",
        default="compare.png",
        metavar="FILE",
        help="image (.png, .jpg, .svg, .pdf) or page (.html) (default: %(default)s)",
    )
    add_options(parser, "--moved")
    parser.add_argument(
        "--no-patches",
        action="store_true",
        help="omit the training patches (no training data needed)",
    )
    add_options(parser, "--which", "--data-dir", "--force")


def prepare(args: argparse.Namespace) -> bool:
    """Checks the run, photos and data before the backend starts."""
    for photo in (args.photo_a, args.photo_b):
        if not os.path.exists(photo):
            raise APINetError(f"There is no photo at {photo!r}; check the path.")
    return check_run(args)


def run(args: argparse.Namespace) -> int:
    """Writes the image or page, and prints the predicted classes."""
    from keras_apinet.evaluate.comparison import check_path, compare, save
    from keras_apinet.shares import probability as as_shown

    check_path(args.out, args.force)
    result = compare(
        args.run_folder,
        args.photo_a,
        args.photo_b,
        which=args.which,
        classes=None if args.classes is None else tuple(args.classes),
        data=args.data,
        data_dir=args.data_dir,
        patches=not args.no_patches,
    )
    path = save(result, args.out, force=args.force)
    for photo, (name, probability) in zip(result.photos, result.taken_for, strict=True):
        print(f"{printable(photo)}: {printable(name)} ({as_shown(probability)})")
    print(printable(f"What tells {' from '.join(result.class_names)}: {path}"))
    return 0
