"""Class folders, and tables of `path,label[,split]`."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.errors import APINetError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".tga", ".jp2"),
)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def load_folder(folder: Path) -> ImageData:
    """Reads `train/val/test/<class>/*.jpg`, or `<class>/*.jpg` without splits.

    Classes are the folders' names, sorted; images may lie deeper inside. Names that
    start with a dot are left out, as are files that are no images by their ending.

    Raises:
        APINetError: for a folder without class folders that hold images.
    """
    tops = {entry.name.lower(): entry.path for entry in _folders(folder)}
    if any(SPLIT_NAMES.get(name) == "train" for name in tops):
        parts = {SPLIT_NAMES[n]: path for n, path in tops.items() if n in SPLIT_NAMES}
    else:
        parts = {"train": os.fspath(folder)}
    found: dict[str, dict[str, list[str]]] = {}
    for split, path in parts.items():
        found[split] = {
            entry.name: images
            for entry in _folders(Path(path))
            if (images := list(find_images(entry.path)))
        }
    names = sorted({name for classes in found.values() for name in classes})
    if not names:
        raise APINetError(
            f"The folder {os.fspath(folder)!r} holds no class folders with images: "
            "expected train/<class>/*.jpg or <class>/*.jpg."
        )
    return ImageData(
        os.fspath(folder),
        tuple(names),
        {
            split: Split.of_files(
                [path for name in sorted(classes) for path in classes[name]],
                [i for i, name in enumerate(names) for _ in classes.get(name, ())],
            )
            for split, classes in found.items()
        },
        description="class folders",
    )


def find_images(folder: str) -> Iterator[str]:
    """The image files in a folder and below, sorted; loops of links are entered once.

    Args:
        folder: where to look.

    Yields:
        Paths that begin with `folder`.
    """
    seen = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(current) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        waiting += [
            e.path for e in reversed(entries) if _is_folder(e) and e.name[0] != "."
        ]
        for entry in entries:
            if (
                entry.name.lower().endswith(IMAGE_SUFFIXES)
                and entry.name[0] != "."
                and not _is_folder(entry)
            ):
                yield entry.path


def load_table(path: Path) -> ImageData:
    """Reads a CSV or TSV file with the columns `path`, `label` and perhaps `split`.

    Paths are relative to the table's folder. Labels are names or numbers. Files that
    are missing are reported like unreadable ones, when they are read.

    Raises:
        APINetError: for other columns, a row without path or label, or a split of
            another name.
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    rows: dict[str, tuple[list[str], list[str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter=separator)
            columns = set(table.fieldnames or ())
            if not {"path", "label"} <= columns:
                raise APINetError(
                    f"The table {os.fspath(path)!r} has the columns "
                    f"{', '.join(table.fieldnames or ()) or '(none)'}: the first line "
                    f"must be path{separator}label or path{separator}label{separator}"
                    "split."
                )
            for row in table:
                image, label = row["path"], row["label"]
                split = (row.get("split") or "train").strip().lower()
                if not image or not label or split not in SPLIT_NAMES:
                    raise APINetError(
                        f"Line {table.line_num} of {os.fspath(path)!r} cannot be used "
                        f"(path={image!r}, label={label!r}, split={split!r}): give a "
                        "path, a label, and train, val or test as the split."
                    )
                paths, labels = rows.setdefault(SPLIT_NAMES[split], ([], []))
                paths.append(os.path.join(path.parent, image))
                labels.append(label)
    except UnicodeDecodeError as error:
        raise APINetError(
            f"The table {os.fspath(path)!r} is not UTF-8 text ({error.reason} at byte "
            f"{error.start}): save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise APINetError(
            f"The table {os.fspath(path)!r} cannot be read ({error}): save it anew."
        ) from error
    found = {label for _, labels in rows.values() for label in labels}
    numbers = all(label.isdecimal() for label in found)
    names = sorted(found, key=int) if numbers else sorted(found)
    place = {name: i for i, name in enumerate(names)}
    return ImageData(
        os.fspath(path),
        tuple(names),
        {
            split: Split.of_files(
                paths, np.fromiter((place[x] for x in labels), np.int32, len(labels))
            )
            for split, (paths, labels) in rows.items()
        },
        description="a table of paths and labels",
    )


def _folders(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as scan:
        return sorted(
            (e for e in scan if _is_folder(e) and e.name[0] != "."),
            key=lambda e: e.name,
        )


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
