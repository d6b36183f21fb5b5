"""Finds near-duplicate photos without a backbone, by a perceptual hash, the colors of a
thumbnail, and the camera and time of the photo.
"""

import contextlib
import datetime
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import Split
from keras_apinet.data.photos.files import read_file
from keras_apinet.data.photos.preprocessing import decode, opened
from keras_apinet.errors import APINetError
from keras_apinet.files.io import write_atomically
from keras_apinet.progress import phase

MARKS = np.dtype(
    [
        ("key", "u8"),  # path, size and time of the file; 0: not cached
        ("seen", "?"),  # whether the photo could be read
        ("hash", "u8"),
        ("colours", "u1", (192,)),  # 8 x 8 x (lightness, red-green, yellow-blue)
        ("palette", "u2", (800,)),  # number of pixels of each color in 64 x 64
        ("taken", "f8"),  # s, NaN if unknown
        ("camera", "u8"),
    ]
)
# Different photos differ in about 32 of 64 bits; shrunk, compressed or lightened copies
# in at most 6.
NEAR_BITS = 6
# Red, green and blue to lightness, red minus green, and yellow minus blue.
_OPPONENT = np.array(
    [[1 / 3, 1 / 2, 1 / 4], [1 / 3, -1 / 2, 1 / 4], [1 / 3, 0, -1 / 2]], np.float32
)
# Seconds between two photos of one burst.
BURST_S = 30
# Average number of photos in a group of look-alikes.
GROUP_SIZE = 6
_MOST_AT_ONCE = 3000
_CHUNK = 256
# Each may hold a decoded photo.
_THREADS = 4
_VERSION = 2


def read_marks(split: Split) -> NDArray[Any]:
    """Examines every photo of a split, at most once for each version of a file.

    The result, `[n]` records of `MARKS`, is cached in Keras's home folder by path, size
    and modification time.
    """
    marks = np.zeros(len(split), MARKS)
    marks["taken"] = np.nan
    if split.reader.kind == "file":
        paths = [os.fsencode(split.reference(i)) for i in range(len(split))]
        marks["key"] = [_key(path) for path in paths]
        store = _store(paths)
        _recall(store, marks)
    missing = np.flatnonzero(~marks["seen"])
    look = phase("Looking at photos", len(missing))
    with ThreadPoolExecutor(_THREADS) as pool, look as shown:
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            contents, sizes = split.reader.fetch(split.rows[chunk])
            kinds = [split.reader.kind] * len(chunk)
            for i, mark in zip(
                chunk, pool.map(_look, kinds, contents, sizes), strict=True
            ):
                if mark is not None:
                    for name, value in mark.items():
                        marks[name][i] = value
            shown(min(start + _CHUNK, len(missing)))
    if split.reader.kind == "file" and len(missing):
        _keep(store, marks)
    return marks


def nearest_twins(
    marks: NDArray[Any], kinds: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Finds, for each photo, the nearest earlier photo that looks the same.

    Args:
        marks: `[n]` records of `MARKS`.
        kinds: `[n]` numbers; only photos with different ones are paired. Default: any
            two photos may be paired.

    Returns:
        `[k, 2]`: positions of the earlier and the later photo, sorted by the later.
    """
    signs, plain = _signs(marks["hash"]), _plain(marks)
    colours = marks["colours"].astype(np.int16)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(marks), 512):
        j = np.arange(start, min(start + 512, len(marks)))
        differ = (64 - signs[j] @ signs.T) / 2
        no_twins = plain | plain[j][:, None] | (np.arange(len(marks)) >= j[:, None])
        if kinds is not None:
            no_twins |= kinds == kinds[j][:, None]
        # The hash ignores colors, and a thumbnail shows little else.
        row, i = np.nonzero((differ <= NEAR_BITS) & ~no_twins)
        apart = np.abs(colours[i] - colours[j[row]])
        near = apart.mean(axis=1) <= 12
        row, i = row[near], i[near]
        order = np.lexsort((i, differ[row, i], row))
        _, best = np.unique(row[order], return_index=True)
        pairs.append(np.stack([i[order][best], j[row[order][best]]], axis=1))
    return np.concatenate(pairs)


def photo_groups(split: Split) -> NDArray[np.int64]:
    """Numbers the groups of photos, `[n]`, that were probably taken together, by class.

    Near-duplicates and successive photos from one camera within `BURST_S` are never
    separated. Photos with similar colors, which suggest one place and one light, are
    then merged into groups of about `GROUP_SIZE` (Ward's method). A class is regrouped
    only if its photos change. Unreadable photos count as black.
    """
    marks = read_marks(split)
    groups = np.zeros(len(split), np.int64)
    for label in np.unique(split.labels):
        inside = np.flatnonzero(split.labels == label)
        shades = marks["colours"][inside].astype(np.float32).mean(axis=1)
        # Clustering takes memory and time quadratic in the number of photos.
        order = np.argsort(shades, kind="stable")
        for part in np.array_split(inside[order], -(-len(inside) // _MOST_AT_ONCE)):
            part = np.sort(part)
            groups[part] = groups.max() + 1 + _look_alikes(marks[part])
    return groups


def _look_alikes(marks: NDArray[Any]) -> NDArray[np.int64]:
    """Groups photos of one class; groups are numbered from 0."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(marks)
    twins = nearest_twins(marks)
    order = np.lexsort((marks["taken"], marks["camera"]))
    apart = np.diff(marks["taken"][order])  # NaN where a time is unknown
    follows = (apart <= BURST_S) & (np.diff(marks["camera"][order]) == 0)
    burst = np.stack([order[:-1][follows], order[1:][follows]], axis=1)
    ends = np.concatenate([twins, burst])
    links = coo_array((np.ones(len(ends), bool), ends.T), (n, n))
    count, unit = connected_components(links, directed=False)
    wanted = max(2, -(-n // GROUP_SIZE))
    if count <= wanted:
        return np.asarray(unit, np.int64)
    palettes = np.zeros((count, marks["palette"].shape[1]), np.float32)
    np.add.at(palettes, unit, np.sqrt(marks["palette"], dtype=np.float32))
    palettes /= np.bincount(unit)[:, None]
    tree = linkage(palettes, "ward")
    return np.asarray(fcluster(tree, wanted, "maxclust")[unit] - 1, np.int64)


def _plain(marks: NDArray[Any]) -> NDArray[np.bool_]:
    """Marks photos without usable content: unreadable, or of a single color."""
    light = marks["colours"][:, ::3].astype(np.float32)
    return np.asarray(~marks["seen"] | (light.std(axis=1) < 2), bool)


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    bits = np.unpackbits(hashes.reshape(-1, 1).view(np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1


def _look(kind: str, content: Any, size: Any) -> dict[str, Any] | None:
    import imagehash
    from PIL import Image, ImageOps

    try:
        if kind == "raw":
            image = Image.fromarray(
                np.frombuffer(content, np.uint8).reshape(*size.tolist(), 3)
            )
        else:
            if kind == "file":
                content = read_file(content)
            image = opened(content)
        # Pillow would decode a PNG file without EXIF to search for it.
        known = image.format != "PNG" or "exif" in image.info
        taken, camera = _origin(image.getexif() if known else Image.Exif())
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            # Decoding at 1/8 size is many times faster.
            image.draft("RGB", (64, 64))
            image = ImageOps.exif_transpose(image).convert("RGB")
        elif kind != "raw":
            image = Image.fromarray(decode(content))
        small = np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float32)
        colours = (small @ _OPPONENT + (0, 128, 128)).astype(np.uint8)
        pixels = image.resize((64, 64), Image.Resampling.BOX)
        shades = np.asarray(pixels, np.float32).reshape(-1, 3) @ _OPPONENT
        steps = (shades // (32, 12, 12) + (0, 5, 5)).clip(0, (7, 9, 9)).astype(int)
        places = steps @ (100, 10, 1)
        bits = np.packbits(imagehash.phash(image).hash.ravel())
        return {
            "seen": True,
            "hash": bits.view(np.uint64)[0],
            "colours": colours.ravel(),
            "palette": np.bincount(places, minlength=800),
            "taken": taken,
            "camera": camera,
        }
    except Exception:  # any error of a damaged file, which is reported when read
        return None


def _origin(exif: Any) -> tuple[float, int]:
    """Returns when a photo was taken, in s, and a number for its camera."""
    inner = exif.get_ifd(0x8769)
    taken = np.nan
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        text = str(inner.get(0x9003) or inner.get(0x9004) or "").strip("\0 ")
        moment = datetime.datetime.strptime(text, "%Y:%m:%d %H:%M:%S")
        taken = moment.replace(tzinfo=datetime.UTC).timestamp()
    camera = [str(exif.get(0x010F)), str(exif.get(0x0110)), str(inner.get(0xA431))]
    return taken, _number("\0".join(camera).encode("utf-8", "surrogateescape"))


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _key(path: bytes) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return 0
    state = f"\0{status.st_size}\0{status.st_mtime_ns}".encode()
    return _number(os.path.realpath(path) + state) or 1


def _store(paths: list[bytes]) -> Path:
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    try:
        folder = os.path.commonpath([os.path.abspath(path) for path in paths])
    except ValueError:  # no photos, or on several drives
        folder = b""
    name = f"marks_{_VERSION}_{_number(folder):016x}.npy"
    return Path(home).expanduser() / "keras_apinet" / name


def _recall(store: Path, marks: NDArray[Any]) -> None:
    try:
        kept = np.load(store, allow_pickle=False)
    except Exception:  # any error of a damaged cache, which is computed again
        return
    if kept.dtype != MARKS or not len(kept):
        return
    order = np.argsort(kept["key"], kind="stable")
    place = np.searchsorted(kept["key"], marks["key"], sorter=order)
    place = order[np.minimum(place, len(kept) - 1)]
    found = (kept["key"][place] == marks["key"]) & (marks["key"] != 0)
    marks[found] = kept[place[found]]


def _keep(store: Path, marks: NDArray[Any]) -> None:
    good = marks[marks["seen"] & (marks["key"] != 0)]
    content = io.BytesIO()
    np.save(content, good, allow_pickle=False)
    with contextlib.suppress(OSError, APINetError):  # without it, only slower next time
        store.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(store, content.getvalue())
