"""What is in a data set: counts, sizes, unreadable files, duplicates."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.data.marks import nearest_twins, read_marks
from keras_apinet.data.photos.files import read_file, unreadable
from keras_apinet.data.photos.preprocessing import read_content
from keras_apinet.errors import APINetError
from keras_apinet.progress import phase

Place = tuple[str, int]
# Images that are in memory at a time.
_CHUNK = 64
# Every pair is compared: beyond this it takes many minutes.
_MOST_COMPARED = 50_000


def inspect(data: ImageData) -> dict[str, Any]:
    """Reads every image once and says what is there.

    Returns:
        Plain values, ready for JSON: `"splits"` (per split its images, classes, counts
        per class, smallest and largest class, smallest, median and largest image side),
        `"held_out"` (how `"val"` was cut), `"unreadable"` (image -> why), `"leakage"`
        (exact duplicates in two splits) and `"conflicts"` (exact duplicates with two
        labels), `"near_leakage"` and `"near_conflicts"` (the same of photos that look
        the same but are other files), as pairs of names, and `"notes"`.
    """
    total = sum(len(split) for split in data.splits.values())
    # The first image with each content: its split, class and number.
    first: dict[bytes, tuple[str, int, int]] = {}
    exact: dict[Place, bytes] = {}
    report: dict[str, Any] = {
        "name": data.name,
        "description": data.description,
        "classes": len(data.class_names),
        "held_out": None if data.held_out is None else dict(data.held_out),
        "splits": {},
        "unreadable": {},
        "leakage": [],
        "conflicts": [],
        "notes": list(data.notes),
    }
    for name, split in data.splits.items():
        sides: list[tuple[int, int]] = []
        for i, (digest, size) in enumerate(_look(split)):
            if isinstance(size, APINetError):
                report["unreadable"][split.reference(i)] = str(size)
            else:
                sides.append(size)
                label = int(split.labels[i])
                exact[name, i] = digest
                other = first.setdefault(digest, (name, label, i))
                pair = [data.splits[other[0]].reference(other[2]), split.reference(i)]
                if other[0] != name:
                    report["leakage"].append(pair)
                if other[1] != label:
                    report["conflicts"].append(pair)
        report["splits"][name] = _count(split, data.class_names, sides)
    if total > _MOST_COMPARED:
        report["notes"].append(
            f"Near-duplicates are not sought among more than {_MOST_COMPARED:,} photos."
        )
    return report | {
        kind: [
            [data.splits[name].reference(i) for name, i in pair]
            for pair in pairs
            if exact.get(pair[0]) != exact.get(pair[1])
        ]
        for kind, pairs in near_duplicates(data).items()
    }


def near_duplicates(data: ImageData) -> dict[str, list[tuple[Place, Place]]]:
    """Photos that look the same, in two splits or with two labels.

    Pairs of (split, number) under `"near_leakage"` and `"near_conflicts"`: for each
    photo at most one, the nearest before it.
    """
    names = list(data.splits)
    if sum(len(split) for split in data.splits.values()) > _MOST_COMPARED:
        return {"near_leakage": [], "near_conflicts": []}
    marks = np.concatenate([read_marks(data.splits[name]) for name in names])
    labels = np.concatenate([data.splits[name].labels for name in names])
    sizes = [len(data.splits[name]) for name in names]
    part = np.repeat(np.arange(len(names)), sizes)
    number = np.concatenate([np.arange(size) for size in sizes])

    def pairs(of: Any) -> list[tuple[Place, Place]]:
        def allowed(j: Any) -> Any:
            earlier = np.arange(len(marks)) < j[:, None]
            return earlier & (of != of[j][:, None])

        found = nearest_twins(marks, marks, allowed)
        return [
            ((names[part[i]], int(number[i])), (names[part[j]], int(number[j])))
            for i, j in found.tolist()
        ]

    return {"near_leakage": pairs(part), "near_conflicts": pairs(labels)}


def _count(
    split: Split, class_names: tuple[str, ...], sides: list[tuple[int, int]]
) -> dict[str, Any]:
    counts = np.bincount(split.labels, minlength=len(class_names))
    present = np.flatnonzero(counts)
    order = present[np.argsort(counts[present], kind="stable")]
    sizes = np.array(sides or [(0, 0)])
    return {
        "images": len(split),
        "classes": len(present),
        "per_class": {class_names[i]: int(counts[i]) for i in present},
        "smallest": {class_names[i]: int(counts[i]) for i in order[:3]},
        "largest": {class_names[i]: int(counts[i]) for i in order[::-1][:3]},
        "short_side_px": _spread(sizes.min(axis=1)),
        "long_side_px": _spread(sizes.max(axis=1)),
    }


def _spread(values: Any) -> dict[str, int]:
    return {
        "min": int(values.min()),
        "median": int(np.median(values)),
        "max": int(values.max()),
    }


def _look(split: Split) -> Iterator[tuple[bytes, tuple[int, int] | APINetError]]:
    """For each image a digest, equal for exact duplicates, and its size in px.

    In place of the size of an image that cannot be read stands the error.
    """

    def look(content: Any, size: Any, reference: str) -> Any:
        kind: str = split.reader.kind
        try:
            if kind == "file":
                content, kind = read_file(content), "encoded"
            pixels = read_content(kind, content, size, reference)
        except OSError as error:
            return b"", unreadable(reference, error)
        except APINetError as error:
            return b"", error
        digest = hashlib.sha256(content)
        if kind == "raw":
            digest.update(repr(pixels.shape).encode())
        return digest.digest(), pixels.shape[:2]

    reading = phase("Reading photos", len(split))
    with ThreadPoolExecutor() as pool, reading as shown:
        for start in range(0, len(split), _CHUNK):
            shown(start)
            indices = np.arange(start, min(start + _CHUNK, len(split)))
            contents, sizes = split.reader.fetch(split.rows[indices])
            names = [split.reference(int(i)) for i in indices]
            yield from pool.map(look, contents, sizes, names)
