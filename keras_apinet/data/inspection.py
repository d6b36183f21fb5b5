"""Inspects a data set: counts, sizes, unreadable files, duplicates, a contact sheet.

The contact sheet shows one training batch, with the partners of each image, and
near-duplicates.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.data.marks import nearest_twins, read_marks
from keras_apinet.data.photos.files import read_file, unreadable
from keras_apinet.data.photos.preprocessing import read_content
from keras_apinet.errors import APINetError
from keras_apinet.progress import phase

Place = tuple[str, int]
# Images in memory at a time.
_CHUNK = 64
# Every pair is compared, which takes many minutes above this.
_MOST_COMPARED = 50_000
_PX = 128
_GAP = 8
_LINE = 18
_HEIGHT = _PX + _LINE + 2 * _GAP
_GREEN, _ORANGE = "#1a9850", "#e6550d"


def inspect(data: ImageData) -> dict[str, Any]:
    """Reads every image once and summarizes the data set.

    Returns:
        Plain values, ready for JSON: `"splits"` (for each, its images, classes, counts
        per class, smallest and largest class, smallest, median and largest image side),
        `"held_out"` (how `"val"` was held out), `"unreadable"` (image -> reason),
        `"leakage"` (exact duplicates in two splits) and `"conflicts"` (exact duplicates
        with two labels), `"near_leakage"` and `"near_conflicts"` (likewise for photos
        that look the same but are different files), as pairs of names, and `"notes"`.
    """
    total = sum(len(split) for split in data.splits.values())
    # The first image with each digest: its split, class and position.
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
            f"More than {_MOST_COMPARED:,} photos are not searched for near-duplicates."
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
    """Finds photos that look the same, in two splits or with two labels.

    Returns pairs of (split, position) as `"near_leakage"` and `"near_conflicts"`, with
    at most one pair per photo: the one with the nearest earlier photo.
    """
    names = list(data.splits)
    if sum(len(split) for split in data.splits.values()) > _MOST_COMPARED:
        return {"near_leakage": [], "near_conflicts": []}
    marks = np.concatenate([read_marks(data.splits[name]) for name in names])
    labels = np.concatenate([data.splits[name].labels for name in names])
    sizes = [len(data.splits[name]) for name in names]
    part = np.repeat(np.arange(len(names)), sizes)
    number = np.concatenate([np.arange(size) for size in sizes])

    def pairs(kinds: NDArray[Any]) -> list[tuple[Place, Place]]:
        return [
            ((names[part[i]], int(number[i])), (names[part[j]], int(number[j])))
            for i, j in nearest_twins(marks, kinds).tolist()
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
    return {name: int(getattr(np, name)(values)) for name in ("min", "median", "max")}


def _look(split: Split) -> Iterator[tuple[bytes, tuple[int, int] | APINetError]]:
    """Yields a digest of each image, equal for exact duplicates, and its size in px.

    For an image that cannot be read, the error replaces the size.
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
    with ThreadPoolExecutor(4) as pool, reading as shown:
        for start in range(0, len(split), _CHUNK):
            shown(start)
            indices = np.arange(start, min(start + _CHUNK, len(split)))
            contents, sizes = split.reader.fetch(split.rows[indices])
            names = [split.reference(int(i)) for i in indices]
            yield from pool.map(look, contents, sizes, names)


def colour_features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Computes features without a backbone: an 8 x 8 thumbnail, `[n, 192]`."""
    import tensorflow as tf

    with tf.device("cpu"):
        small = tf.image.resize(images, [8, 8], antialias=True)
        return np.asarray(small, np.float32).reshape(len(images), -1)


def contact_sheet(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    partners: NDArray[np.int32],
    valid: NDArray[np.bool_],
    class_names: Sequence[str],
    title: str = "",
    columns: int = 3,
) -> Any:
    """Draws every image of a batch next to its two partners.

    Images are `[n, s, s, 3]`, labels `[n]`, and partners and their validity `[2n]`, as
    returned by `PairMiner`. Partners have a green frame if they are of the same class
    and an orange one otherwise; a missing partner is left gray.
    """
    n = len(images)
    rows = -(-n // columns)
    group = 3 * (_PX + _GAP) + 3 * _GAP
    head = 2 * _LINE + 2 * _GAP
    page = _Page((columns * group - 2 * _GAP, head + rows * _HEIGHT))
    page.write(_GAP, _GAP, title, page.image.width - 2 * _GAP)
    left = _GAP
    for text, colour in (
        ("Each image, the nearest of its class", "black"),
        ("(green)", _GREEN),
        ("and the nearest of another class", "black"),
        ("(orange)", _ORANGE),
    ):
        page.write(left, _GAP + _LINE, text, page.image.width, colour)
        left += int(page.pen.textlength(text + " ", page.font))
    names = [class_names[label] for label in labels]
    for i in range(n):
        left = _GAP + i // rows * group
        top = head + i % rows * _HEIGHT
        page.place(images[i], names[i], left, top)
        for kind, frame in enumerate((_GREEN, _ORANGE)):
            left += _PX + _GAP
            pair = kind * n + i
            if valid[pair]:
                other = int(partners[pair])
                page.place(images[other], names[other], left, top, frame)
            else:
                page.pen.rectangle((left, top, left + _PX, top + _PX), "#dddddd")
    return page.image


def with_twins(
    sheet: Any,
    twins: Sequence[tuple[tuple[NDArray[np.uint8], str], ...]],
    title: str,
) -> Any:
    """Adds near-duplicates, pairs of (pixels, text), below a sheet, side by side."""
    pair = 2 * (_PX + _GAP) + 2 * _GAP
    columns = max(1, sheet.width // pair)
    rows = -(-len(twins) // columns)
    head = sheet.height + _LINE + 2 * _GAP
    page = _Page((max(sheet.width, pair), head + rows * _HEIGHT))
    page.image.paste(sheet)
    page.write(_GAP, sheet.height + _GAP, title, page.image.width - 2 * _GAP)
    for number, photos in enumerate(twins):
        row, column = divmod(number, columns)
        for side, (pixels, text) in enumerate(photos):
            left = _GAP + column * pair + side * (_PX + _GAP)
            page.place(pixels, text, left, head + row * _HEIGHT)
    return page.image


class _Page:
    """A white canvas for images and text."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = Image.new("RGB", size, "white")
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=_LINE - 4)

    def write(
        self, left: int, top: int, text: str, room: int, colour: str = "black"
    ) -> None:
        """Writes one line, shortened in its middle to fit `room` px."""
        # Names may hold line breaks, or bytes that are not UTF-8.
        text = " ".join(text.encode("utf-8", "replace").decode().split())
        kept, shown = len(text), text
        while kept and (
            len(shown) > room or self.pen.textlength(shown, self.font) > room
        ):
            kept = min(kept, room) - 1
            # Look-alike classes often differ at the end of their names.
            shown = text[: kept - kept // 2] + "\u2026" + text[len(text) - kept // 2 :]
        self.pen.text((left, top), shown, colour, self.font)

    def place(
        self,
        pixels: NDArray[np.uint8],
        text: str,
        left: int,
        top: int,
        frame: str | None = None,
    ) -> None:
        """Places an image and its name, optionally with a frame."""
        if frame:
            edge = (left - 3, top - 3, left + _PX + 2, top + _PX + 2)
            self.pen.rectangle(edge, outline=frame, width=3)
        tile = ImageOps.pad(Image.fromarray(pixels), (_PX, _PX), color="white")
        self.image.paste(tile, (left, top))
        self.write(left, top + _PX + 3, text, _PX)


def with_pixels(data: Any, pairs: list[list[str]]) -> list[Any]:
    """Loads the photos of pairs of references, each with its split and class."""
    wanted = {name for pair in pairs for name in pair}
    found = {}
    for name, split in data.splits.items():
        for i in range(len(split)):
            if split.reference(i) in wanted:
                text = f"{name}: {data.class_names[split.labels[i]]}"
                found[split.reference(i)] = (split.read(i), text)
    return [tuple(found[name] for name in pair) for pair in pairs]
