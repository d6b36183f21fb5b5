"""`load`: the one way from a name on the command line to a data set."""

import csv
import filecmp
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_apinet.data.holdout import check_group_by, hold_out
from keras_apinet.data.image_data import ImageData, checked
from keras_apinet.data.sources.archives import load_archive
from keras_apinet.data.sources.folders import load_folder
from keras_apinet.data.sources.tables import load_table
from keras_apinet.errors import APINetError, did_you_mean, reason

# Share of a table's rows that must be of photos of a set that has moved.
_MOVED = 0.9
# Photos that are compared, of a table whose photos are still there, too.
_COMPARED = 8
# A TensorFlow Datasets name: set, perhaps /config, perhaps :version.
_TFDS_NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:\d[\w.*]*)?")


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    validation: float | None = 0.1,
    group_by: str = "photos",
    level: str | None = None,
    download: bool = False,
    exclude: str | os.PathLike[str] | None = None,
    relabel: str | os.PathLike[str] | None = None,
) -> ImageData:
    r"""Loads a data set by name; images are read later, when they are needed.

    Args:
        name: What to load:

            - a folder `train/val/test/<class>/*.jpg`, `<class>/*.jpg`, or another
              layout that means the same, such as `Training_Set` for `train`;
            - a folder with the unpacked archive of CUB-200-2011, NABirds,
              FGVC-Aircraft, Stanford Cars, Stanford Dogs, Oxford Flowers or
              Oxford-IIIT Pet, recognised by its files;
            - a CSV or TSV file with the columns `path`, `label` and perhaps `split`;
            - `"tfds:NAME"` (or `NAME` alone): a TensorFlow Datasets set, whose
              `validation` split is the test split if it has no labelled test images;
            - `"synthetic_birds"`: drawn at run time, nothing to download.
        data_dir: Where TensorFlow Datasets keeps its sets. Default: its own default.
        seed: For the held-out split and the synthetic birds. Default 0.
        validation: Fraction of each class that is held out of the training images,
            if the source has no validation split; None for a data set that nothing is
            trained on, whose splits may lack training images. Default 0.1.
        group_by: Which images belong together, so that they are held out together:

            - `"photos"` (default): near-duplicates, photos that one camera took within
              half a minute, and photos of a class that look alike;
            - `"folder"`: the images of one folder;
            - a regular expression that is searched in each path below `name`: images
              for which its groups in parentheses are equal, as in `r"(.*)_\d+"`;
            - `"column:NAME"`: the rows of a table that are equal in that column;
            - `"none"`: each image is drawn by itself.
        level: Which labels, for a set that has several: FGVC-Aircraft has `"variant"`
            (default), `"family"` and `"manufacturer"`.
        download: Whether TensorFlow Datasets may download what is not there. Default
            False.
        exclude: A table with the column `path`, such as an audit writes: these photos
            are left out.
        relabel: A table with the columns `path` and `suggested`: these photos get that
            label, where there is one.

    Returns:
        The data set, with the splits `"train"`, `"val"` and perhaps `"test"`.

    Raises:
        APINetError: For a name that is none of these, or a source that is not whole.

    ```python
    data = load("photos/")
    print(len(data.class_names), {name: len(s) for name, s in data.splits.items()})
    ```
    """
    check_group_by(group_by)
    text = os.fspath(name)
    path = Path(text)
    if text == "synthetic_birds":
        from keras_apinet.data.birds import load_birds

        data = load_birds(seed)
    elif path.is_dir():
        archive = load_archive(path, level)
        data = archive or load_folder(path)
        level = None if archive else level
    elif path.is_file():
        if path.suffix.lower() not in (".csv", ".tsv"):
            raise APINetError(
                f"data={text!r} is a file, but neither .csv nor .tsv: give a table of "
                "path,label, or unpack an archive and give its folder."
            )
        column = group_by.removeprefix("column:")
        data = load_table(path, None if column == group_by else column)
    elif _TFDS_NAME.fullmatch(text.removeprefix("tfds:")):
        from keras_apinet.data.sources.tfds import load_tfds

        data = load_tfds(text.removeprefix("tfds:"), data_dir, download)
    else:
        raise APINetError(
            f"data={text!r} is neither a folder nor a file nor the name of a data "
            "set: check the path, or use synthetic_birds or tfds:NAME."
        )
    if level is not None:
        raise APINetError(
            f"level={level!r} is only for the FGVC-Aircraft archive: leave it out."
        )
    if relabel is not None:
        data = _corrected(data, relabel, "suggested")
    if exclude is not None:
        data = _corrected(data, exclude, None)
    if validation is None:
        return data
    return hold_out(checked(data), validation=validation, seed=seed, group_by=group_by)


def check_source(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Checks that a name can be a source, before a backend has to start for it.

    Raises:
        APINetError: For a path that is not there, with the nearest one that is; for a
            name that neither the working folder nor TensorFlow Datasets has.
    """
    path = Path(name)
    if name == "synthetic_birds" or name.startswith("tfds:") or path.exists():
        return
    beside = path.parent if path.parent.is_dir() else Path()
    near = did_you_mean(path.name, (p.name for p in beside.iterdir()))
    known = _TFDS_NAME.fullmatch(name) and _perhaps_tfds(
        re.split("[/:]", name)[0], data_dir
    )
    if not known:
        raise APINetError(f"There is no folder, table or data set {name!r}{near}")


def _perhaps_tfds(base: str, data_dir: str | os.PathLike[str] | None) -> bool:
    """Whether TensorFlow Datasets, which takes seconds to import, may know a set."""
    kept = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if (Path(kept).expanduser() / base).is_dir():
        return True
    spec = importlib.util.find_spec("tensorflow_datasets")
    roots = (spec and spec.submodule_search_locations) or ()
    # Each set has a module, a folder or a list of checksums that is named after it.
    return any(p.stem == base for root in roots for p in Path(root).rglob(f"{base}*"))


def _moved(
    found: Mapping[str, str | None], data: ImageData, photos: list[str]
) -> dict[str, str | None]:
    """What a table says of photos that have moved, with all of their data set.

    A row is of the photo whose place in the data set ends its path. Where that is so of
    few rows, the table is of another data set.
    """
    root = os.path.abspath(data.name)
    root = root if os.path.isdir(root) else os.path.dirname(root)
    there = {os.path.relpath(photo, root): photo for photo in photos}
    moved, pairs = {}, []
    for path, value in found.items():
        parts = path.split(os.sep)
        ends = (os.path.join(*parts[i:]) for i in range(1, len(parts)))
        if end := next((end for end in ends if end in there), None):
            moved[there[end]] = value
            pairs.append((path, there[end]))
    if len(moved) < _MOVED * len(found):
        return {}
    # Files of the same names that are still where the table says are other photos.
    stays = [(path, new) for path, new in pairs if os.path.isfile(path)][:_COMPARED]
    same = all(filecmp.cmp(path, new, shallow=False) for path, new in stays)
    return moved if same else {}


def _corrected(
    data: ImageData, table: str | os.PathLike[str], column: str | None
) -> ImageData:
    """The data set with the labels in a column of a table, or without its photos."""
    text = os.fspath(table)
    try:
        # Names of files need not be UTF-8.
        with open(
            text, newline="", encoding="utf-8-sig", errors="surrogateescape"
        ) as file:
            rows = csv.DictReader(file)
            missing = {"path", column or "path"} - {*(rows.fieldnames or ())}
            kept = () if missing else rows
            found = {os.path.abspath(r["path"]): r.get(column or "") for r in kept}
    except (OSError, csv.Error, TypeError) as error:
        raise APINetError(
            f"The table {text!r} cannot be read ({reason(error)}); give one that "
            "`keras-apinet data --audit` wrote."
        ) from error
    if missing:
        raise APINetError(
            f"The table {text!r} has no column {min(missing)!r}; give one that "
            "`keras-apinet data --audit` wrote."
        )
    names = {name: i for i, name in enumerate(data.class_names)}
    splits, touched = {}, 0
    photos = {
        split: [os.path.abspath(part.reference(i)) for i in range(len(part))]
        for split, part in data.splits.items()
    }
    if not any(path in found for paths in photos.values() for path in paths):
        found = _moved(found, data, [p for paths in photos.values() for p in paths])
    for split, part in data.splits.items():
        paths = photos[split]
        listed = np.array([path in found for path in paths], bool)
        touched += int(listed.sum())
        if column is None:
            splits[split] = part.take(np.flatnonzero(~listed))
            continue
        labels = part.labels.copy()
        for i in np.flatnonzero(listed):
            label = found[paths[i]]
            if label and label not in names:
                raise APINetError(
                    f"The table {text!r} calls {paths[i]!r} {label!r}, which is no "
                    f"class of {data.name!r}{did_you_mean(label, names)}"
                )
            labels[i] = names[label] if label else labels[i]
        splits[split] = replace(part, labels=labels)
    if not touched:
        raise APINetError(
            f"None of the photos in the table {text!r} is in {data.name!r}; give the "
            "table of this data set."
        )
    word = "left out" if column is None else "given the label"
    notes = (*data.notes, f"{touched:,} photos are {word} as {text!r} says.")
    return replace(data, splits=splits, notes=notes)
