"""`keras-apinet data`."""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable
from keras_apinet.files.bounds import FRACTION, IMAGE_SIZE, SEED, SHEET
from keras_apinet.files.schema import to_json

# Maximum number of pairs on the sheet, and of names printed per list.
_MOST_TWINS, _LISTED = 24, 20

HELP = "inspect a data set: counts, sizes, broken and duplicate files, contact sheet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the data set and the options for the contact sheet and the audit."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder, unpacked archive, CSV or TSV, tfds:NAME, or synthetic_birds",
    )
    parser.add_argument("--data-dir", help="TensorFlow Datasets directory")
    parser.add_argument(
        "--download",
        action="store_true",
        help="let TensorFlow Datasets download the data",
    )
    parser.add_argument(
        "--level", help="FGVC-Aircraft labels: variant, family or manufacturer"
    )
    parser.add_argument(
        "--validation",
        type=FRACTION,
        default=0.1,
        help="fraction of the training images to hold out if there is no validation "
        "split (default: 0.1)",
    )
    parser.add_argument(
        "--group-by",
        default="photos",
        metavar="WHAT",
        help="how to group photos that are held out together: photos (bursts and "
        "look-alikes of a class; the default), folder, none, column:NAME of a table, "
        r"or a regular expression on the path with one group, such as '(.*)_\d+'",
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    parser.add_argument(
        "--sheet",
        default="contact_sheet.png",
        metavar="FILE",
        help="file for the contact sheet (default: %(default)s)",
    )
    parser.add_argument(
        "--backbone", help="backbone whose features select the pairs on the sheet"
    )
    parser.add_argument("--weights", default="imagenet", help="weights of the backbone")
    parser.add_argument(
        "--image-size", type=IMAGE_SIZE, default=224, help="size of its images in px"
    )
    parser.add_argument(
        "--classes-per-batch", type=SHEET, default=6, help="classes on the sheet"
    )
    parser.add_argument(
        "--images-per-class", type=SHEET, default=4, help="images per class"
    )
    parser.add_argument("--augmentation", default="paper", help="as for training")
    parser.add_argument("--resize", default="fit", help="fit or squash")
    parser.add_argument(
        "--audit",
        metavar="RUN",
        help="find wrong labels, outliers and poor photos with this run's features "
        "instead; writes an HTML page and a CSV for train --exclude and --relabel",
    )
    parser.add_argument(
        "--audit-out",
        default="audit.html",
        metavar="FILE",
        help="file for the audit page, with the CSV beside it (default: %(default)s)",
    )
    add_options(parser, "--json", "--force")


def prepare(args: argparse.Namespace) -> bool:
    """Checks the source before the backend starts."""
    from keras_apinet.data.loading import check_source

    check_source(args.data, args.data_dir)
    if args.audit and not args.audit_out.lower().endswith((".html", ".htm")):
        raise APINetError(
            f"--audit-out={args.audit_out!r} must be the name of an HTML page; give "
            "a name that ends in .html."
        )
    return False


def run(args: argparse.Namespace) -> int:
    """Prints a summary of the data set and writes the contact sheet."""
    from keras_apinet.data import load
    from keras_apinet.data.inspection import inspect
    from keras_apinet.files.outputs import check_output, picture_kind

    if not args.audit:
        check_output(args.sheet, picture_kind(args.sheet), args.force)
    data = load(
        args.data,
        data_dir=args.data_dir,
        seed=args.seed,
        validation=args.validation,
        group_by=args.group_by,
        level=args.level,
        download=args.download,
    )
    if args.audit:
        return _audit(data, args)
    report = inspect(data)
    report["contact_sheet"] = os.path.abspath(args.sheet)
    if args.json:
        print(to_json(report))
    else:
        for line in _lines(report):
            _say(line)
    _write_sheet(data, report, args)
    if not args.json:
        _say(f"\ncontact sheet: {report['contact_sheet']}")
    return 0


def _audit(data: Any, args: argparse.Namespace) -> int:
    """Writes the audit page and its CSV table."""
    from collections import Counter
    from pathlib import Path

    from keras_apinet.files.io import exists, write_atomically
    from keras_apinet.files.outputs import check_output, write_output
    from keras_apinet.open_world.audit import COLUMNS, audit, audit_page, audit_table

    page = Path(args.audit_out)
    table = page.with_suffix(".csv")
    check_output(page, "page", args.force)
    if table.exists():
        head = table.read_text("utf-8", "replace").partition("\n")[0]
        if head.lstrip("\ufeff").rstrip() != ",".join(COLUMNS):
            raise APINetError(
                f"The table of findings would replace {str(table)!r}, which was not "
                "written by this package; give another --audit-out."
            )
        if not args.force:
            raise exists(table)
    found = audit(args.audit, data)
    write_output(page, audit_page(found, data, table.name), args.force)
    # File names may not be valid UTF-8.
    rows = audit_table(found).encode("utf-8", "surrogateescape")
    write_atomically(table, rows, exclusive=not args.force)
    if args.json:
        print(to_json({"findings": [vars(finding) for finding in found]}))
        return 0
    for kind, count in Counter(finding.kind for finding in found).items():
        _say(f"{kind:>12}  {count:,}")
    _say(f"{len(found):,} findings: {page} and {table}")
    return 0


def _write_sheet(data: Any, report: dict[str, Any], args: argparse.Namespace) -> None:
    import numpy as np
    from keras import ops

    from keras_apinet.data import balanced_batches
    from keras_apinet.data.inspection import (
        colour_features,
        contact_sheet,
        with_pixels,
        with_twins,
    )
    from keras_apinet.files.outputs import picture_bytes, write_output
    from keras_apinet.layers import PairMiner

    train = data.splits["train"]
    broken = report["unreadable"]
    good = [i for i in range(len(train)) if train.reference(i) not in broken]
    train = train.take(np.array(good, np.int64))
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
        from keras_apinet import build

        model = build(
            args.backbone,
            len(data.class_names),
            image_size=args.image_size,
            weights=None if args.weights == "none" else args.weights,
        )
        features = ops.convert_to_numpy(model.features(images))
        found_by = f"the features of {args.backbone}"
    else:
        features, found_by = colour_features(images), "their colours"
    title = (
        f"A training batch of {os.path.basename(data.name.rstrip('/'))}: "
        f"{batches.plan.classes_per_batch} classes x {args.images_per_class} images, "
        f"augmentation {args.augmentation}, partners selected by {found_by}."
    )
    _, partners, valid = map(ops.convert_to_numpy, PairMiner()(features, labels))
    sheet = contact_sheet(images, labels, partners, valid, data.class_names, title)
    found = [*report["near_conflicts"], *report["near_leakage"]]
    twins = [list(pair) for pair in dict.fromkeys(map(tuple, found))]
    if twins:
        shown = twins[:_MOST_TWINS]
        sheet = with_twins(
            sheet,
            with_pixels(data, shown),
            f"Near-duplicates across splits or with different labels: "
            f"{len(shown):,} of {len(twins):,} pairs.",
        )
    write_output(args.sheet, picture_bytes(sheet, args.sheet), args.force)


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as text; the per-class counts come first, the findings last."""
    splits = report["splits"]
    yield f"{report['name']}: {report['description']}, {report['classes']:,} classes"
    yield "\n" + "".join(f"{name:>8}" for name in splits) + "  class"
    names = dict.fromkeys(c for split in splits.values() for c in split["per_class"])
    for name in names:
        counts = (split["per_class"].get(name, "-") for split in splits.values())
        yield "".join(f"{count:>8}" for count in counts) + f"  {name}"
    for name, split in splits.items():
        yield f"\n{name}: {split['images']:,} images of {split['classes']:,} classes"
        if name == "val" and report["held_out"]:
            cut = report["held_out"]
            yield (
                f"  held out from the training images: {cut['fraction']:.0%} of each "
                f"class requested, seed {cut['seed']}, {cut['groups']:,} groups"
            )
        sizes = sorted(split["per_class"].values())
        if sizes[0] == sizes[-1]:
            yield f"  every class       {sizes[0]:,} images"
        else:
            yield f"  smallest classes  {_counts(split['smallest'])}"
            yield f"  largest classes   {_counts(split['largest'])}"
        for side in ("short", "long"):
            yield f"  {side} side".ljust(20) + _pixels(split[f"{side}_side_px"])
    yield from _list("unreadable images", list(report["unreadable"].values()))
    for title, key in (
        ("exact duplicates across splits (leakage)", "leakage"),
        ("exact duplicates with different labels", "conflicts"),
        ("near-duplicates across splits (leakage)", "near_leakage"),
        ("near-duplicates with different labels", "near_conflicts"),
    ):
        sign = " ~ " if key.startswith("near") else " = "
        yield from _list(title, [sign.join(pair) for pair in report[key]])
    if report["notes"]:
        yield ""
        yield from report["notes"]


def _list(title: str, lines: list[str]) -> Iterator[str]:
    yield f"\n{title}: {f'{len(lines):,}' if lines else 'none'}"
    yield from (f"  {line}" for line in lines[:_LISTED])
    if len(lines) > _LISTED:
        yield f"  ... and {len(lines) - _LISTED:,} more (--json lists all)"


def _counts(classes: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in classes.items())


def _pixels(px: dict[str, int]) -> str:
    if px["min"] == px["max"]:
        return f"{px['min']:,} px"
    return f"{px['min']:,} to {px['max']:,} px, median {px['median']:,}"


def _say(line: str) -> None:
    """Prints one line, with leading blank lines kept and other line breaks escaped."""
    text = line.lstrip("\n")
    print("\n" * (len(line) - len(text)) + printable(text))
