"""Class folders, in the layouts that are common in practice."""

import os
import re
from collections import Counter
from pathlib import Path

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.data.photos.files import Folder, Scan
from keras_apinet.errors import APINetError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words that say nothing about the content of a folder.
_NEUTRAL = {
    *("set", "sets", "data", "dataset", "datasets", "split", "splits", "folder", "dir"),
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures"),
    *("pic", "pics", "jpg", "jpeg", "png", "raw", "the", "of", "new", "final", "all"),
}
_GLUED = re.compile(f"({'|'.join(SPLIT_NAMES)})({'|'.join(_NEUTRAL)})")


def load_folder(folder: Path) -> ImageData:
    """Reads class folders, with or without folders for splits.

    `train/<class>/*.jpg` (also `training_set`, `Train Images`, `seg_train/seg_train`,
    `valid`, `dev`, ...), `<class>/train/*.jpg` and `<class>/*.jpg` are supported, also
    inside folders that hold nothing else. Images may be nested deeper inside a class.
    Names that start with a dot, files left by operating systems, and anything other
    than a regular file are skipped; the notes list what users may miss.
    """
    scan = Scan(os.fspath(folder))
    root = scan.root
    while len(root.folders) == 1 and not root.images:
        only = root.folders[0]
        if not only.folders or split_name(only.name):
            break
        root = only
    notes = list(scan.notes())
    parts = _split_folders(root, notes) or _splits_below_classes(root, notes)
    if not parts:
        _look_at_classes(root, notes)
        parts = {"train": {f.name: list(f.all_images()) for f in root.folders}}
    names = sorted({name for classes in parts.values() for name in classes})
    return ImageData(
        os.fspath(folder),
        tuple(names),
        {
            split: Split.of_files(
                [path for name in sorted(classes) for path in classes[name]],
                [i for i, name in enumerate(names) for _ in classes.get(name, ())],
            )
            for split, classes in parts.items()
        },
        description="class folders",
        notes=tuple(notes),
    )


def split_name(name: str) -> str | None:
    """Returns the split that a folder or table name stands for, or None.

    >>> split_name("Training_Set"), split_name("valImages2017"), split_name("apple")
    ('train', 'val', None)
    """
    split, rest = _words(name)
    return None if rest else split


def _words(name: str) -> tuple[str | None, frozenset[str]]:
    """Returns the only split in a name, and the other meaningful words."""
    parts = re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", name)
    lower = [part.lower() for part in parts]
    words = [w for part in lower for w in (_pair(part) or (part,))]
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    rest = frozenset(w for w in words if w not in SPLIT_NAMES and w not in _NEUTRAL)
    return (splits.pop() if len(splits) == 1 else None), rest


def _pair(word: str) -> tuple[str, ...] | None:
    found = None if word in SPLIT_NAMES else _GLUED.fullmatch(word)
    return found.groups() if found else None


Parts = dict[str, dict[str, list[str]]]


def _split_folders(root: Folder, notes: list[str]) -> Parts | None:
    """Reads `<split>/<class>/*.jpg`; returns None if these folders are not splits."""
    known = {f.name: (f, *_words(f.name)) for f in root.folders}
    found = [(f, split, rest) for f, split, rest in known.values() if split]
    # `seg_train` beside `seg_test`, but not `train_station` beside `test_tube`.
    if len({rest for _, _, rest in found}) > 1:
        found = [item for item in found if not item[2]]
    elif found and found[0][2] and len({split for _, split, _ in found}) < 2:
        found = []
    others = [f for f in root.folders if f not in [item[0] for item in found]]
    kinds = Counter(split for _, split, _ in found)
    nested = any(f.folders for f, _, _ in found)
    if not nested and (others or len(kinds) < 2):
        return None  # the class of railway trains, perhaps
    if "train" not in kinds and others:
        name = found[0][0].name if found else ""
        if name and nested:
            raise APINetError(
                f"The folder {root.path!r} holds {name!r} next to class folders "
                f"such as {others[0].name!r}; move the training classes into 'train'."
            )
        return None
    parts: Parts = {}
    for folder, split, _ in found:
        if kinds[split] > 1:
            twins = ", ".join(repr(f.name) for f, s, _ in found if s == split)
            raise APINetError(
                f"The folder {root.path!r} has {kinds[split]} folders for the "
                f"{split!r} split ({twins}); keep one, or merge them."
            )
        inner = folder
        while len(inner.folders) == 1 and not inner.images:
            only = inner.folders[0]
            kind, rest = _words(only.name)
            doubled = only.name.lower() == inner.name.lower() or kind == split
            if not only.folders or not (doubled or not (kind or rest)):
                break
            inner = only
        if not inner.folders and split == "train":
            raise APINetError(
                f"The folder {inner.path!r} holds {len(inner.images):,} images but no "
                "class folders; sort them into one folder per class, or use a "
                "CSV table of path,label,split."
            )
        _loose(inner, notes)
        if inner.folders:
            parts[split] = {f.name: list(f.all_images()) for f in inner.folders}
    for other in others:
        count = sum(1 for _ in other.all_images())
        notes.append(
            f"The folder {other.name!r} next to the splits is left out ({count:,} "
            "images)."
        )
    _loose(root, notes)
    return parts


def _splits_below_classes(root: Folder, notes: list[str]) -> Parts | None:
    """Reads `<class>/<split>/*.jpg`; returns None if no class is split that way."""
    cut = {
        f.name: {split_name(inner.name): inner for inner in f.folders}
        for f in root.folders
        if not f.images and f.folders
    }
    cut = {n: s for n, s in cut.items() if None not in s and "train" in s}
    if not cut:
        return None
    whole = [f.name for f in root.folders if f.name not in cut]
    if whole:
        raise APINetError(
            f"The class folder {next(iter(cut))!r} in {root.path!r} holds 'train' and "
            f"other splits, but {whole[0]!r} does not; split every class or none."
        )
    parts: Parts = {}
    for name, splits in cut.items():
        for split, folder in splits.items():
            parts.setdefault(str(split), {})[name] = list(folder.all_images())
    _loose(root, notes)
    return parts


def _look_at_classes(root: Folder, notes: list[str]) -> None:
    """Rejects folders without classes, and reports what may be unintended."""
    if not root.folders:
        inside = (
            f"{len(root.images):,} images, but no class folders"
            if root.images
            else "no class folders with images"
        )
        raise APINetError(
            f"The folder {root.path!r} holds {inside}: expected train/<class>/*.jpg "
            "or <class>/*.jpg; sort the images so, or use a CSV table of path,label."
            + "".join(f" {note}" for note in notes)
        )
    _loose(root, notes)
    if all(not folder.images for folder in root.folders):
        first = root.folders[0]
        below = f"{first.name}/{first.folders[0].name}"
        notes.append(
            f"All images are nested below the class folders, as in {below!r}, so the "
            f"classes are the {len(root.folders):,} folders at the top. If the folders "
            "below are the classes, move them up, or use a CSV table of path,label."
        )


def _loose(folder: Folder, notes: list[str]) -> None:
    if folder.images:
        notes.append(
            f"{len(folder.images):,} images directly in {folder.path!r} belong to no "
            "class and are left out."
        )
