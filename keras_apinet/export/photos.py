"""The photos that an exported file is proven on, and those that set int8 ranges."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.photos import preprocessing
from keras_apinet.errors import APINetError
from keras_apinet.export.sources import Source
from keras_apinet.pixels import as_rgb

_REPRESENTATIVE = 200
# Where photos are looked for: the first split that there is.
_PROOF = ("val", "test", "train")
_RANGES = ("train", "val", "test")


@dataclass(frozen=True)
class Photos:
    """Images ready for the model.

    Attributes:
        images: uint8 `[N, S, S, 3]`.
        labels: `[N]` classes, `None` if they are unknown.
        origin: Where they come from, for people.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    origin: str

    def __len__(self) -> int:
        return len(self.images)


def verification_photos(
    source: Source, given: Any, limit: int, apart: bool = False
) -> Photos:
    """The validation split of the run or of `given`, else what there is.

    Args:
        source: What is exported.
        given: Photos of the user, or `None`.
        limit: Photos at most.
        apart: Whether to share no photo with `representative_photos`: where both would
            take the same split or array, each gets every second photo.

    Raises:
        APINetError: If there are none that can be read, or too few to share.
    """
    return _found(source, given, _PROOF, limit, 0 if apart else None)


def representative_photos(source: Source, given: Any, apart: bool = False) -> Photos:
    """Training photos that show which values the layers take.

    Args:
        source: What is exported.
        given: Photos of the user, or `None`.
        apart: As in `verification_photos`.

    Raises:
        APINetError: If there are none that can be read, or too few to share.
    """
    if given is None and source.run is None:
        raise APINetError(
            "int8 needs representative photos to choose its ranges, and there are "
            "none: give a run folder, or photos= (--photos) with some of the "
            "training photos."
        )
    found = _found(source, given, _RANGES, _REPRESENTATIVE, 1 if apart else None)
    # The full range of pixels, whatever the photos hold: then uint8 pixels go in as
    # they are, which is what phones feed.
    images = found.images.copy()
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    return replace(found, images=images)


def _found(
    source: Source, given: Any, splits: tuple[str, ...], limit: int, half: int | None
) -> Photos:
    size, resize = source.info.image_size, source.info.resize
    if given is None and source.run is None:
        return Photos(_drawn(size), None, "16 drawn pictures, as there are no photos")
    if _are_images(given):
        if not len(given):
            raise APINetError("photos holds no image; give at least one.")
        chosen = _spread(_half(len(given), half), limit)
        ready = [as_rgb(given[i]) for i in chosen]
        images = [
            p
            if p.shape[:2] == (size, size)
            else preprocessing.prepare(p, size, resize=resize)
            for p in ready
        ]
        return Photos(np.stack(images), None, f"{len(images)} given photos")
    from keras_apinet import data

    if given is None:
        assert source.run is not None
        found = source.run.data()
    else:
        found = given if isinstance(given, data.ImageData) else data.load(given)
    name, other = (
        next(name for name in order if name in found.splits)
        for order in (splits, _RANGES if splits is _PROOF else _PROOF)
    )
    split = found.splits[name]
    own = _half(len(split), half if name == other else None)
    split = split.take(_spread(own, limit))
    batches = data.evaluation_batches(
        split, image_size=size, resize=resize, on_error="skip"
    )
    with batches.report:
        read = [(np.asarray(images), np.asarray(labels)) for images, labels in batches]
    if not sum(len(labels) for _, labels in read):
        raise APINetError(
            f"No photo of the {name!r} split of {found.name!r} can be read; give "
            "photos= (--photos)."
        )
    labels = np.concatenate([labels for _, labels in read]).astype(np.int64)
    failed = batches.report.failed
    same = tuple(found.class_names) == source.info.class_names
    return Photos(
        np.concatenate([images for images, _ in read]),
        labels if same else None,
        f"{len(labels)} of the {name!r} split of {found.name}"
        + (f" (left out, as unreadable: {', '.join(failed)})" if failed else ""),
    )


def _are_images(given: Any) -> bool:
    return isinstance(given, np.ndarray) or (
        isinstance(given, (list, tuple))
        and all(isinstance(g, np.ndarray) for g in given)
    )


def _half(count: int, half: int | None) -> NDArray[np.int64]:
    """All of `count` positions, or the even (0) or the odd ones (1)."""
    if half is None:
        return np.arange(count)
    if count < 2:
        raise APINetError(
            "int8 needs photos that set its ranges and others that prove it, and there "
            f"is {count}; give more with photos= (--photos), or take precision "
            "'dynamic'."
        )
    return np.arange(half, count, 2)


def _spread(positions: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """At most `limit` of the positions, evenly over all of them."""
    count = len(positions)
    places = np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)
    return positions[places]


def _drawn(size: int) -> NDArray[np.uint8]:
    from keras_apinet.data.birds import SPECIES, draw

    return np.stack(
        [
            preprocessing.prepare(draw(i % len(SPECIES), i).pixels, size)
            for i in range(16)
        ]
    )
