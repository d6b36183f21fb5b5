"""Features of photos of new classes, and the accuracy cost of changing classes."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet import data
from keras_apinet.errors import APINetError, did_you_mean, printable
from keras_apinet.files.features import Features
from keras_apinet.runs import Run

# Maximum fraction of new photos that may be unreadable.
_MOST_BROKEN = 0.1


def listed(photos: Mapping[str, Sequence[str]]) -> data.ImageData:
    """Image data from a mapping of classes to photos."""
    names = tuple(printable(name) for name in sorted(photos))
    for name in photos:
        if not photos[name] or not name.strip():
            raise APINetError(f"The class {name!r} needs a name and photos; give both.")
    paths = [str(path) for name in sorted(photos) for path in photos[name]]
    labels = [i for i, name in enumerate(sorted(photos)) for _ in photos[name]]
    split = data.Split.of_files(paths, labels)
    return data.ImageData("the photos", names, {"train": split})


def readable(photos: data.ImageData) -> data.ImageData:
    """The readable photos; raises an error if too many are unreadable."""
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
            f"{len(failed):,} of {total:,} new photos cannot be read; repair or omit "
            f"them, starting with: {failed[0]}"
        )
    return replace(photos, splits=splits)


def relabelled(had: Features, to: NDArray[Any]) -> Features:
    """Features with mapped labels, without photos whose label maps to -1."""
    kept = to[had.labels] >= 0
    return Features(
        had.features[kept],
        to[had.labels[kept]],
        np.arange(kept.sum()),
        tuple(np.array(had.names, object)[kept]),
    )


def check_fresh(run: Run, images: "data.ImageData", photos: "data.ImageData") -> None:
    """Checks that no new photo is already in the run under another class."""
    has = {
        os.path.realpath(part.reference(i)): images.class_names[part.labels[i]]
        for part in images.splits.values()
        for i in range(len(part))
        if images.class_names[part.labels[i]] in run.class_names
    }
    for part in photos.splits.values():
        for i in range(len(part)):
            if name := has.get(os.path.realpath(part.reference(i))):
                raise APINetError(
                    f"The photo {part.reference(i)!r} is already in the run "
                    f"{str(run.folder)!r}, as {name!r}; remove it from the new class, "
                    "or remove that class first."
                )


def check_known(run: Run, names: Sequence[str]) -> None:
    """Checks that a run has these classes."""
    for name in names:
        if name not in run.class_names:
            raise APINetError(
                f"The run {str(run.folder)!r} has no class {name!r}"
                + did_you_mean(name, run.class_names)
            )


def joined(old: Features | None, new: Features, to: NDArray[Any]) -> Features:
    """Features of a split, followed by those of new classes."""
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
    """Functions that read each photo of a split, by name."""
    parts = [s.splits[split] for s in sources if s is not None and split in s.splits]
    return {
        part.reference(i): partial(part.read, i)
        for part in parts
        for i in range(len(part))
    }


@dataclass(frozen=True)
class Change:
    """A new run, and the accuracy before and after the change of classes.

    Attributes:
        run: The new run.
        photos: Number of training photos of new classes.
        before: Validation accuracy of the kept classes in the old run, among its
            classes; `None` without validation photos.
        after: The same for the new run, among its classes.
        new: Validation accuracy of the new classes; `None` without photos of them.
        images: Numbers of validation photos of the kept and of the new classes.
    """

    run: Run
    photos: int
    before: float | None
    after: float | None
    new: float | None
    images: tuple[int, int]

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the new run on all its validation photos, or `None`."""
        parts = list(zip((self.after, self.new), self.images, strict=True))
        total = sum(self.images)
        right = sum(share * count for share, count in parts if share is not None)
        return right / total if total else None


def judged(
    run: Run,
    photos: int,
    model: Any,
    changed: Any,
    had: Features | None,
    has: Features | None,
    old_to_new: NDArray[np.int64],
) -> Change:
    """Validation accuracy before and after a change, computed from features.

    `old_to_new` maps each old class to its new label, or to -1 if it was removed.
    Classes that were merged count as one class before the change, too.
    """
    if had is None or has is None or not len(has):
        return Change(run, photos, None, None, None, (0, 0))

    def share(values: Any) -> float | None:
        return float(values.mean()) if len(values) else None

    truth = old_to_new[had.labels]
    before = old_to_new[had.logits(model).argmax(axis=1)] == truth
    after = has.logits(changed).argmax(axis=1) == has.labels
    old = np.isin(has.labels, old_to_new)
    counts = (int(old.sum()), int((~old).sum()))
    figures = share(before[truth >= 0]), share(after[old]), share(after[~old])
    return Change(run, photos, *figures, counts)
