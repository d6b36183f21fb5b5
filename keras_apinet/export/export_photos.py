"""The photos that an exported file is proven on, and those that set int8 ranges."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.export import photos as _photos
from keras_apinet.export.sources import Source
from keras_apinet.pixels import as_rgb

_REPRESENTATIVE = 200


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


def verification_photos(source: Source, given: Any, limit: int) -> Photos:
    """The validation split of the run or of `given`, else what there is."""
    return _found(source, given, ("val", "test", "train"), limit)


def representative_photos(source: Source, given: Any) -> NDArray[np.uint8]:
    """Training photos that show which values the layers take.

    Raises:
        APINetError: If there are none.
    """
    if given is None and source.run is None:
        raise APINetError(
            "int8 needs representative photos to choose its ranges, and there are "
            "none: give a run folder, or photos= (--photos) with some of the "
            "training photos."
        )
    images = _found(source, given, ("train", "val", "test"), _REPRESENTATIVE).images
    # The full range of pixels, whatever the photos hold: then uint8 pixels go in as
    # they are, which is what phones feed.
    images = images.copy()
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    return images


def _found(source: Source, given: Any, splits: tuple[str, ...], limit: int) -> Photos:
    size, resize = source.info.image_size, source.info.resize
    if given is None and source.run is None:
        return Photos(_drawn(size), None, "16 drawn pictures, for want of photos")
    if _are_images(given):
        chosen = _spread(len(given), limit)
        ready = [as_rgb(given[i]) for i in chosen]
        images = [
            p if p.shape[:2] == (size, size) else _photos.prepare(p, size, resize)
            for p in ready
        ]
        if not images:
            raise APINetError("photos holds no image; give at least one.")
        return Photos(np.stack(images), None, f"{len(images)} given photos")
    from keras_apinet import data

    if given is None:
        assert source.run is not None
        found = source.run.data()
    else:
        found = given if isinstance(given, data.ImageData) else data.load(given)
    name = next(name for name in splits if name in found.splits)
    split = found.splits[name]
    split = split.take(_spread(len(split), limit))
    batches = data.evaluation_batches(
        split, image_size=size, resize=resize, on_error="skip"
    )
    read = [(np.asarray(images), np.asarray(labels)) for images, labels in batches]
    if not sum(len(labels) for _, labels in read):
        raise APINetError(
            f"No photo of the {name!r} split of {found.name!r} can be read; give "
            "photos= (--photos)."
        )
    labels = np.concatenate([labels for _, labels in read]).astype(np.int64)
    same = tuple(found.class_names) == source.info.class_names
    return Photos(
        np.concatenate([images for images, _ in read]),
        labels if same else None,
        f"{len(labels)} of the {name!r} split of {found.name}",
    )


def _are_images(given: Any) -> bool:
    return isinstance(given, np.ndarray) or (
        isinstance(given, (list, tuple))
        and all(isinstance(g, np.ndarray) for g in given)
    )


def _spread(count: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` of `count` positions, evenly over all of them."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def _drawn(size: int) -> NDArray[np.uint8]:
    from keras_apinet.data.synthetic import SPECIES, draw

    return np.stack(
        [_photos.prepare(draw(i % len(SPECIES), i).pixels, size) for i in range(16)]
    )
