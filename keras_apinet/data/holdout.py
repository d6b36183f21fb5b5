"""Holds a validation split out of the training images, in whole groups.

Photos come in bursts, so a random tenth contains near-duplicates of training photos,
on which a model scores better than it would on new photos.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import ImageData, Split, checked, end_of
from keras_apinet.data.marks import photo_groups
from keras_apinet.data.sources.tables import number_groups
from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import FRACTION, SEED

# Above this, examining every photo takes longer than most people will wait.
_MOST_PHOTOS = 100_000


def hold_out(
    data: ImageData,
    *,
    validation: float,
    seed: int,
    group_by: str = "photos",
) -> ImageData:
    """Holds a `"val"` split out of `"train"` unless the data set has one.

    Args:
        data: The data set as read from its source.
        validation: Fraction of every class to hold out; 0 omits the split.
        seed: Seed that determines which groups are held out.
        group_by: Which photos belong together; see `keras_apinet.data.load`.
    """
    FRACTION.check("validation", validation)
    SEED.check("seed", seed)
    pattern = check_group_by(group_by)
    if "val" in data.splits or not validation:
        return data
    train = data.splits["train"]
    too_many = group_by == "photos" and len(train) > _MOST_PHOTOS
    if group_by == "none" or too_many:
        rest, val = stratified_holdout(train.labels, validation, seed)
        groups = np.arange(len(train))
    else:
        groups = _groups(data, group_by, pattern)
        rest, val = grouped_holdout(train, groups, validation, seed)
    named = group_by not in ("none", "photos")
    if named and len(np.unique(groups)) < 2:
        raise APINetError(
            f"group_by={group_by!r} puts all {len(train):,} photos into one group, so "
            "none can be held out; use a pattern or column that separates photos "
            "taken on different occasions, or group_by='none'."
        )
    if named and not len(val):
        raise APINetError(
            f"group_by={group_by!r} puts every class into one group, but a whole class "
            "cannot be held out; use a pattern or column that divides classes into "
            "several groups, or group_by='none'."
        )
    held = len(np.unique(groups[val]))
    whole = [
        data.class_names[c]
        for c in np.unique(train.labels)
        if not (train.labels[val] == c).any() and (train.labels == c).sum() > 1
    ]
    notes = []
    if len(val):
        how = f"in {held:,} whole groups" if held < len(val) else "one by one"
        notes.append(f"Held out {len(val):,} of {len(train):,} photos {how}.")
    total = len(train)
    if len(val) and abs(len(val) / total - validation) > max(0.05, validation / 4):
        why = "every class gives and keeps at least one photo"
        if group_by != "none" and not too_many:
            why = "every class gives a photo and keeps half, and groups stay whole"
        notes.append(
            f"That is {len(val) / total:.0%} instead of the requested "
            f"{validation:.0%}: {why}."
        )
    if too_many:
        notes.append(
            f"More than {_MOST_PHOTOS:,} photos are not searched for bursts; use "
            "--group-by if photos belong together."
        )
    if whole:
        shown = ", ".join(repr(name) for name in whole[:5])
        notes.append(
            f"{len(whole):,} classes have only one group each and are not in the "
            f"validation split ({shown}); photos from other days or places would help."
        )
    if not len(val):
        return replace(data, notes=(*data.notes, *notes))
    return replace(
        data,
        splits={
            "train": train.take(rest),
            "val": train.take(val),
            **{n: s for n, s in data.splits.items() if n != "train"},
        },
        held_out={
            "from": "train",
            "fraction": validation,
            "seed": seed,
            "images": len(val),
            "group_by": group_by,
            "groups": held,
        },
        notes=(*data.notes, *notes),
    )


def held_out_photos(data: ImageData) -> list[str]:
    """Returns the photos of the validation split, for `hold_out_again`."""
    val = data.splits["val"]
    return [_place(val.reference(i), data.name) for i in range(len(val))]


def hold_out_again(data: ImageData, photos: Sequence[str]) -> ImageData | None:
    """Holds out the same photos as before if most exist and none is ambiguous."""
    if "train" not in data.splits or "val" in data.splits:
        return None
    train, held = data.splits["train"], set(photos)
    again = np.array(
        [_place(train.reference(i), data.name) in held for i in range(len(train))], bool
    )
    if not len(photos) / 2 <= again.sum() <= len(photos):
        return None
    splits = {"train": train.take(~again), "val": train.take(again)}
    return checked(replace(data, splits={**data.splits, **splits}))


def _place(reference: str, name: str) -> str:
    """Returns a file's path below its data set, which survives a move; or its name."""
    if not os.path.isfile(reference):
        return reference
    root = name if os.path.isdir(name) else os.path.dirname(name)
    return os.path.relpath(os.path.abspath(reference), os.path.abspath(root))


def check_group_by(group_by: str) -> re.Pattern[str] | None:
    """Checks the grouping of photos; returns a pattern in compiled form."""
    if group_by in ("photos", "folder", "none"):
        return None
    if group_by.startswith("column:"):
        if group_by == "column:":
            raise APINetError("group_by='column:' names no column; use column:NAME.")
        return None
    try:
        pattern = re.compile(group_by)
    except (re.error, RecursionError, OverflowError) as error:
        raise APINetError(
            f"group_by={group_by!r} is not a regular expression ({error}); use one "
            "with a group in parentheses, or photos, folder, none or column:NAME."
        ) from error
    if not pattern.groups:
        raise APINetError(
            f"group_by={group_by!r} has no group in parentheses; put them around what "
            r"photos of one burst share, as in '(.*)_\d+', or use photos, folder, "
            "none or column:NAME."
        )
    return pattern


def _groups(
    data: ImageData, group_by: str, pattern: re.Pattern[str] | None
) -> NDArray[np.int64]:
    train = data.splits["train"]
    if group_by == "photos":
        return photo_groups(train)
    if group_by.startswith("column:"):
        if train.groups is None:
            raise APINetError(
                f"group_by={group_by!r} needs a table, but {data.name!r} is "
                f"{data.description or 'none'}; use a pattern for the path."
            )
        return train.groups
    paths = [train.reference(i).replace("\\", "/") for i in range(len(train))]
    if pattern is None:
        return number_groups(path.rpartition("/")[0] for path in paths)
    base = data.name.replace("\\", "/").rstrip("/") + "/"
    found = [pattern.search(path.removeprefix(base)) for path in paths]
    if not any(found):
        raise APINetError(
            f"group_by={group_by!r} matches none of {len(paths):,} paths, such as "
            f"{paths[0].removeprefix(base)!r}; correct the pattern."
        )
    return number_groups(
        "\0".join(("", *(part or "" for part in match.groups()))) if match else ""
        for match in found
    )


def grouped_holdout(
    split: Split, groups: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Holds out about the same fraction of every class, in whole groups.

    Groups are drawn in an order that depends only on the seed and the name of their
    first photo, so adding photos later changes the split little. A group is held out as
    a whole, with all its classes; a class with only one group stays in training.
    Returns the positions that stay and those that are held out, both ascending.
    """
    labels = split.labels
    total = np.bincount(labels)
    want = np.maximum(1, np.rint(total * fraction)).astype(np.int64)
    have = np.zeros_like(total)
    members: dict[int, list[int]] = {}
    for i, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(i)
    names = {g: min(end_of(split.reference(i)) for i in m) for g, m in members.items()}
    ordered = sorted(members, key=lambda g: _rank(names[g], seed))
    held: list[int] = []
    # First the groups that best match the share, then the smallest, for classes that
    # have none yet.
    for order in (ordered, sorted(ordered, key=lambda g: len(members[g]))):
        for group in order:
            classes, counts = np.unique(labels[members[group]], return_counts=True)
            before, after = have[classes], have[classes] + counts
            nearer = abs(after - want[classes]) < abs(before - want[classes])
            if order is not ordered:
                nearer = before == 0
            if nearer.all() and (after <= total[classes] // 2).all():
                have[classes] = after
                held += members[group]
    val = np.array(sorted(held), np.int64)
    return np.setdiff1d(np.arange(len(labels)), val), val


def _rank(name: str, seed: int) -> bytes:
    text = f"{seed}:{name}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=8).digest()


def stratified_holdout(
    labels: NDArray[np.int32], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Holds out the same fraction of every class.

    Every class keeps at least one training image, and a class with at least two images
    gives up at least one. Returns the same as `grouped_holdout`.
    """
    by_class = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    _, first, counts = np.unique(
        labels[by_class], return_index=True, return_counts=True
    )
    give = np.rint(counts * fraction).astype(np.int64)
    give = np.minimum(np.maximum(give, 1), counts - 1)
    rank = np.arange(len(labels)) - np.repeat(first, counts)
    held = rank < np.repeat(give, counts)
    return np.sort(by_class[~held]), np.sort(by_class[held])
