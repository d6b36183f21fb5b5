"""`keras-apinet data`."""

import argparse
import json
import os
import sys
from typing import Any

HELP = "look at a data set: counts, sizes, broken and duplicate files, a contact sheet"


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where the images come from."""
    parser.add_argument("--data-dir", help="where TensorFlow Datasets keeps its sets")
    parser.add_argument(
        "--download",
        action="store_true",
        help="let TensorFlow Datasets download the set",
    )
    parser.add_argument(
        "--level", help="variant, family or manufacturer, for FGVC-Aircraft"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.1,
        help="share of the training images held out, if there is no own split "
        "(default: 0.1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the data set, where the contact sheet goes, and how it is made."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder, unpacked archive, CSV or TSV, tfds:NAME, or synthetic_birds",
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--sheet",
        default="contact_sheet.png",
        metavar="FILE",
        help="where to write the contact sheet (default: %(default)s)",
    )
    parser.add_argument(
        "--backbone", help="find the pairs of the sheet by this backbone's features"
    )
    parser.add_argument(
        "--weights", default="imagenet", help="weights of that backbone"
    )
    parser.add_argument(
        "--image-size", type=int, default=224, help="px of the sheet's images"
    )
    parser.add_argument(
        "--classes-per-batch", type=int, default=6, help="classes on the sheet"
    )
    parser.add_argument(
        "--images-per-class", type=int, default=4, help="images of each class on it"
    )
    parser.add_argument("--augmentation", default="paper", help="as for training")
    parser.add_argument("--resize", default="fit", help="fit or squash")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints what is in the data set and writes the contact sheet."""
    from keras_apinet.data import load
    from keras_apinet.data.inspection import inspect

    data = load(
        args.data,
        data_dir=args.data_dir,
        seed=args.seed,
        validation=args.validation,
        level=args.level,
        download=args.download,
    )
    report = inspect(data, _progress if sys.stderr.isatty() else None)
    _write_sheet(data, args)
    report["contact_sheet"] = os.path.abspath(args.sheet)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0


def _write_sheet(data: Any, args: argparse.Namespace) -> None:
    import numpy as np

    from keras_apinet.data import balanced_batches
    from keras_apinet.data.contact_sheet import colour_features, contact_sheet

    train = data.splits["train"]
    batches = balanced_batches(
        train,
        classes_per_batch=min(args.classes_per_batch, len(np.unique(train.labels))),
        images_per_class=args.images_per_class,
        image_size=args.image_size,
        augmentation=args.augmentation,
        resize=args.resize,
        seed=args.seed,
    )
    with batches.report:
        images, labels = (np.asarray(part) for part in next(iter(batches)))
    if args.backbone:
        from keras import ops

        from keras_apinet import build

        model = build(
            args.backbone,
            len(data.class_names),
            image_size=args.image_size,
            weights=None if args.weights == "none" else args.weights,
        )
        features = ops.convert_to_numpy(model.features(images))
    else:
        features = colour_features(images)
    sheet = contact_sheet(images, labels, features, data.class_names)
    ending = os.path.splitext(args.sheet)[1] or ".png"
    unfinished = f"{args.sheet}.unfinished{ending}"
    sheet.save(unfinished)
    os.replace(unfinished, args.sheet)


def _print(report: dict[str, Any]) -> None:
    print(f"{report['name']}: {report['description']}, {report['classes']} classes")
    for name, split in report["splits"].items():
        short, long = split["short_side_px"], split["long_side_px"]
        print(f"\n{name}: {split['images']} images of {split['classes']} classes")
        print(f"  smallest classes  {_counts(split['smallest'])}")
        print(f"  largest classes   {_counts(split['largest'])}")
        for side, px in (("short", short), ("long", long)):
            print(
                f"  {side} side px".ljust(20)
                + f"{px['min']} to {px['max']}, median {px['median']}"
            )
        print("  images per class")
        for class_name, count in split["per_class"].items():
            print(f"    {count:6d}  {class_name}")
    _list("unreadable images", list(report["unreadable"].values()))
    _list(
        "exact duplicates across splits (leakage)",
        [" = ".join(pair) for pair in report["leakage"]],
    )
    _list(
        "exact duplicates with different labels",
        [" = ".join(pair) for pair in report["conflicts"]],
    )
    print(f"\ncontact sheet: {report['contact_sheet']}")


def _list(title: str, lines: list[str], most: int = 20) -> None:
    print(f"\n{title}: {len(lines) or 'none'}")
    for line in lines[:most]:
        print(f"  {line}")
    if len(lines) > most:
        print(f"  ... and {len(lines) - most} more (--json lists all)")


def _counts(classes: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in classes.items())


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rreading {done}/{total} images", end=end, file=sys.stderr, flush=True)
