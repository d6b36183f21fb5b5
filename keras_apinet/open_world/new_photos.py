"""Photos of new classes: named one by one or in a folder, read, and made features."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet import data
from keras_apinet.errors import APINetError, printable
from keras_apinet.evaluate.open_split import run_options
from keras_apinet.evaluate.predictions import predict_split
from keras_apinet.open_world.features import Features
from keras_apinet.runs import Run

# Share of new photos that may be unreadable.
_MOST_BROKEN = 0.1


def listed(photos: Mapping[str, Sequence[str]]) -> data.ImageData:
    """Photos that were named one by one."""
    names = tuple(sorted(printable(name) for name in photos))
    for name in photos:
        if not photos[name] or not name.strip():
            raise APINetError(f"The class {name!r} needs a name and photos; give both.")
    paths = [str(path) for name in sorted(photos) for path in photos[name]]
    labels = [i for i, name in enumerate(sorted(photos)) for _ in photos[name]]
    split = data.Split.of_files(paths, labels)
    return data.ImageData("the photos", names, {"train": split})


def readable(photos: data.ImageData) -> data.ImageData:
    """The photos that can be read, if these are nearly all."""
    splits, failed = {}, []
    for name, split in photos.splits.items():
        good = []
        for i in range(len(split)):
            try:
                split.read(i)
                good.append(i)
            except APINetError as error:
                failed.append(str(error))
        splits[name] = split.take(np.array(good, np.int64))
    total = sum(len(split) for split in photos.splits.values())
    if len(failed) > _MOST_BROKEN * total:
        raise APINetError(
            f"{len(failed):,} of {total:,} new photos cannot be read; mend or leave "
            f"them out, first: {failed[0]}"
        )
    return replace(photos, splits=splits)


def photo_features(
    run: Run, model: Any, photos: "data.ImageData"
) -> dict[str, Features]:
    found = {}
    for name, split in photos.splits.items():
        seen = predict_split(model, split, **run_options(run))
        names = tuple(split.reference(int(i)) for i in seen.positions)
        found[name] = Features(seen.features, seen.labels, seen.positions, names)
    return found


def joined(old: Features | None, new: Features, to: NDArray[Any]) -> Features:
    """Features of a split, and after them those of new classes."""
    labels = to[new.labels]
    if old is None:
        return replace(new, labels=labels, positions=np.arange(len(new)))
    return Features(
        np.concatenate([old.features, new.features]),
        np.concatenate([old.labels, labels]),
        np.arange(len(old) + len(new)),
        (*old.names, *new.names),
    )


def origins(
    sources: Sequence["data.ImageData | None"], split: str
) -> dict[str, Callable[[], NDArray[np.uint8]]]:
    """What reads each photo of a split, by its name."""
    parts = [s.splits[split] for s in sources if s is not None and split in s.splits]
    return {
        part.reference(i): partial(part.read, i)
        for part in parts
        for i in range(len(part))
    }
