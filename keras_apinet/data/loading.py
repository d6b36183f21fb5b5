"""`load`: loads a data set from a name, as given on the command line."""

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

# Fraction of a table's rows that must match photos of a data set that has moved.
_MOVED = 0.9
# Number of photos to compare if a table's original photos still exist as well.
_COMPARED = 8
# A TensorFlow Datasets name: data set, optional /config, optional :version.
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
    r"""Loads a data set by name; images are read later, when needed.

    Args:
        name: What to load:

            - a folder `train/val/test/<class>/*.jpg`, `<class>/*.jpg`, or an
              equivalent layout, such as `Training_Set` for `train`;
            - a folder with the unpacked archive of CUB-200-2011, NABirds,
              FGVC-Aircraft, Stanford Cars, Stanford Dogs, Oxford Flowers or
              Oxford-IIIT Pet, recognized by its files;
            - a CSV or TSV file with the columns `path`, `label` and optionally `split`;
            - `"tfds:NAME"` (or just `NAME`): a TensorFlow Datasets data set, whose
              `validation` split becomes the test split if it has no labeled test
              images;
            - `"synthetic_birds"`: drawn at run time, with nothing to download.
        data_dir: Data folder of TensorFlow Datasets. Default: its own default.
        seed: Seed for the held-out split and the synthetic birds. Default 0.
        validation: Fraction of each class to hold out of the training images if the
            source has no validation split. None if nothing will be trained, in which
            case the data set may lack training images. Default 0.1.
        group_by: Which images belong together and so are held out together:

            - `"photos"` (default): near-duplicates, photos taken by one camera within
              half a minute, and photos of a class that look alike;
            - `"folder"`: the images of one folder;
            - a regular expression that is searched in each path below `name`: images
              for which its groups in parentheses are equal, as in `r"(.*)_\d+"`;
            - `"column:NAME"`: rows of a table with equal values in that column;
            - `"none"`: each image is drawn separately.
        level: Label level for a data set with several: FGVC-Aircraft has `"variant"`
            (default), `"family"` and `"manufacturer"`.
        download: Whether TensorFlow Datasets may download missing data. Default False.
        exclude: A table with the column `path`, such as one written by an audit, of
            photos to leave out.
        relabel: A table with the columns `path` and `suggested`, of photos to give the
            suggested label, if there is one.

    Returns:
        The data set, with the splits `"train"`, `"val"` and possibly `"test"`.

    Raises:
        APINetError: If the name is none of these, or the source is incomplete.

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
                f"data={text!r} is a file, but neither .csv nor .tsv; use a table of "
                "path,label, or unpack an archive and use its folder."
            )
        column = group_by.removeprefix("column:")
        data = load_table(path, None if column == group_by else column)
    elif _TFDS_NAME.fullmatch(text.removeprefix("tfds:")):
        from keras_apinet.data.sources.tfds import load_tfds

        data = load_tfds(text.removeprefix("tfds:"), data_dir, download)
    else:
        raise APINetError(
            f"data={text!r} is neither a folder nor a file nor the name of a data "
            "set; check the path, or use synthetic_birds or tfds:NAME."
        )
    if level is not None:
        raise APINetError(
            f"level={level!r} is only for the FGVC-Aircraft archive; omit it."
        )
    if relabel is not None:
        data = _corrected(data, relabel, "suggested")
    if exclude is not None:
        data = _corrected(data, exclude, None)
    if validation is None:
        return data
    return hold_out(checked(data), validation=validation, seed=seed, group_by=group_by)


def check_source(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Checks that a name can be a source, without starting a backend.

    Raises:
        APINetError: If the path does not exist, with the closest existing one; or if
            neither the working folder nor TensorFlow Datasets has the name.
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
    """Whether TensorFlow Datasets, which takes seconds to import, may know a name."""
    kept = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    if (Path(kept).expanduser() / base).is_dir():
        return True
    spec = importlib.util.find_spec("tensorflow_datasets")
    roots = (spec and spec.submodule_search_locations) or ()
    # Each data set has a module, a folder or a list of checksums named after it.
    return any(p.stem == base for root in roots for p in Path(root).rglob(f"{base}*"))


def _moved(
    found: Mapping[str, str | None], data: ImageData, photos: list[str]
) -> dict[str, str | None]:
    """Matches the rows of a table to the photos of a data set that has moved.

    A row belongs to the photo whose path below the data set is the end of the row's
    path. If few rows match, the table belongs to another data set.
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
    # If files still exist where the table says, same names may mean different photos.
    stays = [(path, new) for path, new in pairs if os.path.isfile(path)][:_COMPARED]
    same = all(filecmp.cmp(path, new, shallow=False) for path, new in stays)
    return moved if same else {}


def _corrected(
    data: ImageData, table: str | os.PathLike[str], column: str | None
) -> ImageData:
    """Applies the labels in a column of a table, or leaves its photos out."""
    text = os.fspath(table)
    try:
        # File names need not be UTF-8.
        with open(
            text, newline="", encoding="utf-8-sig", errors="surrogateescape"
        ) as file:
            rows = csv.DictReader(file)
            missing = {"path", column or "path"} - {*(rows.fieldnames or ())}
            kept = () if missing else rows
            found = {os.path.abspath(r["path"]): r.get(column or "") for r in kept}
    except (OSError, csv.Error, TypeError) as error:
        raise APINetError(
            f"The table {text!r} cannot be read ({reason(error)}); use one written by "
            "`keras-apinet data --audit`."
        ) from error
    if missing:
        raise APINetError(
            f"The table {text!r} has no column {min(missing)!r}; use one written by "
            "`keras-apinet data --audit`."
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
                    f"The table {text!r} labels {paths[i]!r} as {label!r}, which is "
                    f"not a class of {data.name!r}{did_you_mean(label, names)}"
                )
            labels[i] = names[label] if label else labels[i]
        splits[split] = replace(part, labels=labels)
    if not touched:
        raise APINetError(
            f"None of the photos in the table {text!r} is in {data.name!r}; use the "
            "table of this data set."
        )
    word = "left out" if column is None else "relabeled"
    notes = (*data.notes, f"{touched:,} photos are {word} according to {text!r}.")
    return replace(data, splits=splits, notes=notes)
