"""Unpacked archives that users download by hand, recognized by their files.

Labels are the archive's own class numbers in order, from 0, just as in TensorFlow
Datasets.
"""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.errors import APINetError, reason

# split, path, class number, box
Row = tuple[str, str, int, Sequence[float] | None]
AIRCRAFT_LEVELS = {
    "variant": "variants.txt",
    "family": "families.txt",
    "manufacturer": "manufacturers.txt",
}
_CAR_TEST_LABELS = "cars_test_annos_withlabels.mat"


def load_archive(folder: Path, level: str | None) -> ImageData | None:
    """Reads an unpacked archive from a folder or one inside it, or returns `None`.

    For FGVC-Aircraft, `level` is `"variant"` (default), `"family"` or `"manufacturer"`.
    """
    inside = (
        sorted(p for p in folder.iterdir() if p.is_dir()) if folder.exists() else []
    )
    for root in (folder, *inside):
        for marks, read in _ARCHIVES:
            if all(os.path.exists(root / mark) for mark in marks):
                try:
                    return read(root, level)
                except FileNotFoundError as error:
                    raise APINetError(
                        f"The archive in {os.fspath(root)!r} is incomplete: "
                        f"{error.filename!r} is missing; unpack it again."
                    ) from error
                except APINetError:
                    raise
                except Exception as error:  # many kinds, from SciPy and the XML reader
                    raise APINetError(
                        f"The archive in {os.fspath(root)!r} cannot be parsed "
                        f"({type(error).__name__}: {reason(error)}); unpack it again."
                    ) from error
    return None


def _cub(root: Path, level: str | None) -> ImageData:
    """Reads CUB-200-2011, or NABirds, which has the same files and a hierarchy."""
    classes = dict(_lines(root / "image_class_labels.txt"))
    training = dict(_lines(root / "train_test_split.txt"))
    boxes = dict(_lines(root / "bounding_boxes.txt", optional=True))
    names = dict(_lines(root / "classes.txt"))

    def rows() -> Iterator[Row]:
        for image, path in _lines(root / "images.txt"):
            box = None
            if image in boxes:
                left, top, width, height = map(float, boxes[image].split())
                box = (left, top, left + width, top + height)
            split = "train" if training[image] == "1" else "test"
            yield split, os.path.join(root, "images", path), int(classes[image]), box

    parents = dict(_lines(root / "hierarchy.txt", optional=True))
    groups = {"parent": {int(c): names[p] for c, p in parents.items() if p in names}}
    kind = "NABirds" if parents else "CUB-200-2011"
    by_number = {int(number): name for number, name in names.items()}
    return _gather(root, kind, rows(), by_number, groups if parents else {}, level)


def _aircraft(root: Path, level: str | None) -> ImageData:
    level = level or "variant"
    if level not in AIRCRAFT_LEVELS:
        raise APINetError(
            f"level={level!r} is not a level of FGVC-Aircraft; use one of "
            f"{', '.join(AIRCRAFT_LEVELS)}."
        )
    names = _text(root / AIRCRAFT_LEVELS[level])
    boxes = dict(_lines(root / "images_box.txt", optional=True))

    def labels(of: str, split: str) -> list[tuple[str, str]]:
        return list(_lines(root / f"images_{of}_{split}.txt"))

    def rows() -> Iterator[Row]:
        for split in ("train", "val", "test"):
            for image, name in labels(level, split):
                path = os.path.join(root, "images", f"{image}.jpg")
                box = (
                    [float(x) for x in boxes[image].split()] if image in boxes else None
                )
                yield split, path, names.index(name), box

    # A class belongs to one class of each coarser level: that of any of its images.
    groups = {}
    own = dict(labels(level, "train"))
    for coarser in list(AIRCRAFT_LEVELS)[list(AIRCRAFT_LEVELS).index(level) + 1 :]:
        other = dict(labels(coarser, "train"))
        groups[coarser] = {names.index(name): other[i] for i, name in own.items()}
    return _gather(
        root, f"FGVC-Aircraft, {level}", rows(), dict(enumerate(names)), groups, None
    )


def _cars(root: Path, level: str | None) -> ImageData:
    test = root / _CAR_TEST_LABELS
    test = test if test.exists() else root / "devkit" / _CAR_TEST_LABELS
    meta = _mat(root / "devkit" / "cars_meta.mat", "class_names")
    files = {"train": root / "devkit" / "cars_train_annos.mat", "test": test}

    def rows() -> Iterator[Row]:
        for split, file in files.items():
            for annotation in _mat(file, "annotations"):
                box = [float(annotation[f"bbox_{x}"]) for x in ("x1", "y1", "x2", "y2")]
                path = os.path.join(root, f"cars_{split}", str(annotation["fname"]))
                yield split, path, int(annotation["class"]), box

    names = {i + 1: str(name) for i, name in enumerate(meta)}
    return _gather(root, "Stanford Cars", rows(), names, {}, level)


def _dogs(root: Path, level: str | None) -> ImageData:
    lists = root if (root / "train_list.mat").exists() else root / "lists"
    files = {
        split: [str(f) for f in _mat(lists / f"{split}_list.mat", "file_list")]
        for split in ("train", "test")
    }
    names = sorted(
        {file.split("/")[0] for part in files.values() for file in part}, key=str.lower
    )
    place = {name: i for i, name in enumerate(names)}

    def rows() -> Iterator[Row]:
        for split, part in files.items():
            for file in part:
                box = _dog_box(root / "Annotation" / file.removesuffix(".jpg"))
                path = os.path.join(root, "Images", file)
                yield split, path, place[file.split("/")[0]], box

    return _gather(root, "Stanford Dogs", rows(), dict(enumerate(names)), {}, level)


def _dog_box(file: Path) -> list[float] | None:
    """Returns the box around all dogs in an image."""
    if not file.exists():
        return None
    tree = ElementTree.parse(file)
    corners = [
        [float(box.findtext(tag) or 0) for tag in ("xmin", "ymin", "xmax", "ymax")]
        for box in tree.iter("bndbox")
    ]
    if not corners:
        return None
    boxes = np.array(corners)
    return [*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]


def _flowers(root: Path, level: str | None) -> ImageData:
    labels = _mat(root / "imagelabels.mat", "labels")
    keys = {"train": "trnid", "val": "valid", "test": "tstid"}

    def rows() -> Iterator[Row]:
        for split, key in keys.items():
            for image in _mat(root / "setid.mat", key).tolist():
                path = os.path.join(root, "jpg", f"image_{image:05d}.jpg")
                yield split, path, int(labels[image - 1]), None

    names = {int(c): f"flower {int(c)}" for c in np.unique(labels)}
    return _gather(root, "Oxford Flowers 102", rows(), names, {}, level)


def _pets(root: Path, level: str | None) -> ImageData:
    found: dict[int, str] = {}
    parts: list[Row] = []
    for split, file in {"train": "trainval.txt", "test": "test.txt"}.items():
        for image, rest in _lines(root / "annotations" / file):
            if image.startswith("#"):
                continue
            number = int(rest.split()[0])
            found[number] = image.rpartition("_")[0]
            path = os.path.join(root, "images", f"{image}.jpg")
            parts.append((split, path, number, None))
    return _gather(root, "Oxford-IIIT Pet", iter(parts), found, {}, level)


def _gather(
    root: Path,
    kind: str,
    rows: Iterator[Row],
    names: Mapping[int, str],
    groups: Mapping[str, Mapping[int, str]],
    level: str | None,
) -> ImageData:
    """Numbers the classes from 0 and collects the rows of each split."""
    if level is not None:
        raise APINetError(f"level={level!r} does not apply to {kind}; omit it.")
    parts: dict[str, tuple[list[str], list[int], list[Any]]] = {}
    for split, path, number, box in rows:
        paths, classes, boxes = parts.setdefault(split, ([], [], []))
        paths.append(path)
        classes.append(number)
        boxes.append(box)
    numbers = sorted({n for _, classes, _ in parts.values() for n in classes})
    splits = {}
    for split, (paths, classes, boxes) in parts.items():
        whole = (0.0, 0.0, np.inf, np.inf)
        places = None
        if any(box is not None for box in boxes):
            places = np.array([whole if b is None else b for b in boxes], np.float32)
        splits[split] = Split.of_files(
            paths, np.searchsorted(numbers, classes), boxes=places
        )
    return ImageData(
        os.fspath(root),
        tuple(names[n] for n in numbers),
        splits,
        groups={k: tuple(g.get(n, "") for n in numbers) for k, g in groups.items()},
        description=kind,
    )


def _text(path: Path, optional: bool = False) -> list[str]:
    if optional and not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _lines(path: Path, optional: bool = False) -> Iterator[tuple[str, str]]:
    """Maps the first word of every line to the rest of it."""
    for line in _text(path, optional):
        key, _, rest = line.partition(" ")
        yield key, rest.strip()


def _mat(path: Path, name: str) -> NDArray[Any]:
    """Reads an array from a MATLAB file, even if it has only one value."""
    from scipy.io import loadmat

    if not path.exists():
        raise FileNotFoundError(2, "missing", os.fspath(path))
    return np.atleast_1d(loadmat(path, squeeze_me=True)[name])


_ARCHIVES: tuple[
    tuple[tuple[str, ...], Callable[[Path, str | None], ImageData]], ...
] = (
    (("images.txt", "image_class_labels.txt", "train_test_split.txt"), _cub),
    (("images_variant_train.txt", "variants.txt"), _aircraft),
    (("devkit/cars_train_annos.mat",), _cars),
    (("Images", "train_list.mat"), _dogs),
    (("Images", "lists/train_list.mat"), _dogs),
    (("imagelabels.mat", "setid.mat"), _flowers),
    (("annotations/trainval.txt", "images"), _pets),
)
