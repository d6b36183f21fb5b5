"""The data that a run is judged on: where it is, and labels the model knows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_apinet.errors import APINetError
from keras_apinet.runs import Run

if TYPE_CHECKING:
    from keras_apinet.data import ImageData, Split


def open_data(
    run: Run, data: "str | ImageData | None" = None, data_dir: str | None = None
) -> "ImageData":
    """The run's data set; if it moved, an error that says where it was."""
    if data is not None and not isinstance(data, (str, Path)):
        return data
    was = run.description.get("data", {}).get("load", {}).get("name")
    try:
        return run.data(None if data is None else str(data), data_dir)
    except (APINetError, OSError) as error:
        if data is not None:
            raise
        raise APINetError(
            f"The data of this run was at {was!r} when it was trained, and cannot be "
            f"read there now ({error}); say where it is with --data."
        ) from error


def open_judged_data(
    run: Run, data: "str | ImageData | None" = None, data_dir: str | None = None
) -> tuple["ImageData", bool]:
    """The data to judge a run on, and whether it is another set than the run's own.

    The run's own data, moved or not, has the splits of the training. Another set is a
    test set: it keeps its splits if it has any, and is judged whole if it has none.

    Args:
        run: The run.
        data: Where the data is; a data set is taken for the run's own. Default: where
            the training found it.
        data_dir: Where TFDS data is now, if it moved.
    """
    if data is None or not isinstance(data, (str, Path)):
        return open_data(run, data, data_dir), False
    from keras_apinet import data as sources

    if _is_own(run, data, data_dir):
        return open_data(run, data, data_dir), False
    load = run.description["data"]["load"]
    options = {key: load[key] for key in ("level", "seed") if key in load}
    images = sources.load(str(data), data_dir=data_dir, validation=None, **options)
    if set(images.splits) == {"train"}:
        images = replace(images, splits={"test": images.splits["train"]})
    return images, True


def _is_own(run: Run, data: str | Path, data_dir: str | None) -> bool:
    """Whether the data at a place is what the run was trained on, or a copy of it."""
    recorded = run.description["data"]
    was = str(recorded["load"]["name"])
    if str(data) == was:
        return True
    if Path(data).exists() and Path(data).resolve() == Path(was).resolve():
        return True
    try:
        there = run.data(str(data), data_dir)
    except APINetError:
        return False  # it may not do for training, and be a good test set
    known = recorded.get("fingerprint", there.fingerprint())
    if there.fingerprint() != known:
        return False
    try:
        original = run.data()
    except APINetError:
        return True  # it moved
    # Files of other photos may bear the same names.
    if original.fingerprint() != there.fingerprint():
        return False
    first, second = (x.splits["train"].read(0) for x in (original, there))
    return bool(np.array_equal(first, second))


def default_split(images: "ImageData") -> str:
    """The split to judge a model on: `"test"`, else `"val"`, else what there is."""
    known = [name for name in ("test", "val") if name in images.splits]
    return known[0] if known else next(iter(images.splits))


def known_images(
    images: "ImageData",
    split: str,
    class_names: Sequence[str],
    ignore_unknown: bool = False,
) -> "Split":
    """A split with labels that are positions in the model's classes, matched by name.

    Args:
        images: The data set.
        split: Its split.
        class_names: The model's classes.
        ignore_unknown: Leave images of other classes out.

    Raises:
        APINetError: If the split is missing or has no labels, or there are classes
            that the model does not know.
    """
    if split not in images.splits:
        raise APINetError(
            f"The data set {images.name!r} has no split {split!r}; it has "
            f"{', '.join(map(repr, images.splits))}: choose one with --split."
        )
    part = images.splits[split]
    if not len(part) or int(part.labels.min()) < 0:
        raise APINetError(
            f"The {split!r} split of {images.name!r} has "
            + ("images without labels" if len(part) else "no images")
            + ": there is nothing to compare the predictions with."
        )
    places = {name: i for i, name in enumerate(class_names)}
    target = np.array([places.get(name, -1) for name in images.class_names], np.int32)
    labels = target[part.labels]
    strangers = np.unique(part.labels[labels < 0])
    if len(strangers) and (not ignore_unknown or (labels < 0).all()):
        names = ", ".join(repr(images.class_names[c][:60]) for c in strangers[:5])
        raise APINetError(
            f"The {split!r} split of {images.name!r} has {len(strangers)} classes "
            "that the model does not know "
            f"({names}{', ...' if len(strangers) > 5 else ''}); "
            "give the data it was trained for, or leave these images out with "
            "--ignore-unknown."
        )
    return replace(part, labels=labels).take(np.flatnonzero(labels >= 0))


def data_groups(
    images: "ImageData", class_names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The data set's groups in the order of the model's classes."""
    result = {}
    for level, names in images.groups.items():
        group_of = dict(zip(images.class_names, names, strict=True))
        result[level] = tuple(group_of.get(name, name) for name in class_names)
    return result


def run_options(run: Run, batch_size: int = 64) -> dict[str, Any]:
    """How the training prepared its photos: arguments of `predict_split`."""
    return {
        "image_size": run.image_size,
        "resize": run.settings.get("resize", "fit"),
        "box_crop": run.settings.get("box_crop", False),
        "batch_size": batch_size,
    }
