"""Tables of `path,label[,split]` and any other column that groups photos."""

import csv
import os
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.data.photos.files import cell
from keras_apinet.data.sources.folders import split_name
from keras_apinet.errors import APINetError


def load_table(path: Path, column: str | None = None) -> ImageData:
    """Reads a CSV or TSV file with the columns `path`, `label` and optionally `split`.

    Paths are relative to the table's folder. Labels are names or numbers. Spaces and
    quotes around a cell are ignored. Missing files are reported on reading, just like
    unreadable ones; devices and pipes are left out. Photos with equal values in
    `column` belong together.
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    rows: dict[str, list[tuple[str, str, str]]] = {}
    special = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter=separator)
            names = [cell(name) for name in table.fieldnames or ()]
            lower = [n.lower() if n.lower() in _OURS else n for n in names]
            table.fieldnames = lower
            _check_columns(path, separator, names, lower, column)
            for row in table:
                image, label = cell(row["path"]), cell(row["label"])
                given = cell(row.get("split")) or "train"
                split = split_name(given)
                if not image or not label or not split:
                    raise APINetError(
                        f"Line {table.line_num} of {os.fspath(path)!r} cannot be used "
                        f"(path={image!r}, label={label!r}, split={given!r}); use a "
                        "path, a label, and train, val or test as the split."
                    )
                image = os.path.join(path.parent, image)
                if _is_special(image):
                    special += 1
                    continue
                key = cell(row.get(column)) if column else ""
                rows.setdefault(split, []).append((image, label, key))
    except UnicodeDecodeError as error:
        raise APINetError(
            f"The table {os.fspath(path)!r} is not UTF-8 text ({error.reason} at byte "
            f"{error.start}): save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise APINetError(
            f"The table {os.fspath(path)!r} cannot be read ({error}): save it again as "
            "CSV or TSV."
        ) from error
    if not rows:
        raise APINetError(
            f"The table {os.fspath(path)!r} names no photos; add rows below its first "
            "line."
        )
    found = {label for part in rows.values() for _, label, _ in part}
    ordered = in_order(found)
    place = {name: i for i, name in enumerate(ordered)}
    notes = (
        (f"{special:,} rows that name no regular file are left out.",)
        if special
        else ()
    )
    return ImageData(
        os.fspath(path),
        tuple(ordered),
        {
            split: Split.of_files(
                [image for image, _, _ in part],
                np.fromiter((place[x] for _, x, _ in part), np.int32, len(part)),
                groups=number_groups(k for *_, k in part) if column else None,
            )
            for split, part in rows.items()
        },
        description="a table of paths and labels",
        notes=notes,
    )


def number_groups(keys: Iterable[str]) -> NDArray[np.int64]:
    """Numbers groups of equal keys from 0; each empty key is a separate group.

    >>> number_groups(["a", "", "a", ""]).tolist()
    [0, 1, 0, 2]
    """
    seen: dict[str | int, int] = {}
    keyed = [key or i for i, key in enumerate(keys)]
    return np.array([seen.setdefault(key, len(seen)) for key in keyed], np.int64)


_OURS = ("path", "label", "split")


def _check_columns(
    path: Path, separator: str, names: list[str], lower: list[str], column: str | None
) -> None:
    twice = [name for name in _OURS if lower.count(name) > 1]
    if twice:
        raise APINetError(
            f"The table {os.fspath(path)!r} has {lower.count(twice[0])} columns "
            f"{twice[0]!r}; keep one of them."
        )
    if not {"path", "label"} <= {*lower}:
        raise APINetError(
            f"The table {os.fspath(path)!r} has the columns "
            f"{', '.join(names) or '(none)'}: the first line must be "
            f"path{separator}label or path{separator}label{separator}split."
        )
    if column is not None and column not in lower:
        raise APINetError(
            f"group_by='column:{column}': the table {os.fspath(path)!r} has the "
            f"columns {', '.join(names)}; name one of them."
        )


def in_order(labels: Iterable[str]) -> list[str]:
    """Sorts a table's classes, by number if all are short numbers, else by name.

    >>> in_order(["10", "9", "09"]), in_order(["10", "9", "a"])
    (['09', '9', '10'], ['10', '9', 'a'])
    """
    found = sorted(labels)
    numbers = all(len(label) < 1000 and label.isdecimal() for label in found)
    return sorted(found, key=int) if numbers else found


def _is_special(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # reported when it is read
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
