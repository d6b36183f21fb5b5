"""Small pictures for reports: photos with maps laid over them, held by the page."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.attribution.contrast import class_activation
from keras_apinet.evaluate.attribution.feature_maps import FeatureMaps
from keras_apinet.files.io import unwritable
from keras_apinet.files.outputs import check_output, picture_bytes, write_output
from keras_apinet.runs import Run

# From no evidence to the peak; told apart in grey and by colour-blind readers.
_HEAT = np.array([[60, 10, 90], [190, 40, 100], [250, 140, 20], [255, 240, 130]], float)
_FOR, _AGAINST = np.array([255, 150, 20.0]), np.array([40, 120, 255.0])


def with_heat(
    image: ArrayLike, where: ArrayLike, mark: bool = True
) -> NDArray[np.uint8]:
    """A photo with a map of 0..1 over it.

    Args:
        image: `[S, S, 3]`, 0..255.
        where: `[S, S]` in 0..1.
        mark: Whether to ring the peak.

    Returns:
        uint8 `[S, S, 3]`.
    """
    photo, values = np.asarray(image, np.float64), np.asarray(where, np.float64)
    place = np.clip(values, 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(place.astype(int), len(_HEAT) - 2)
    part = (place - low)[..., None]
    colours = _HEAT[low] * (1 - part) + _HEAT[low + 1] * part
    opacity = 0.9 * np.clip(values, 0, 1)[..., None] ** 1.3
    result = _faded(photo) * (1 - opacity) + colours * opacity
    if mark and values.max() > 0:
        y, x = np.unravel_index(values.argmax(), values.shape)
        rows, columns = np.indices(values.shape)
        radius, width = 0.07 * len(values), max(1.0, 0.008 * len(values))
        distance = np.abs(np.hypot(rows - y, columns - x) - radius)
        result[distance <= 2 * width] = 0
        result[distance <= width] = 255
    return np.asarray(result, np.uint8)


def with_signs(image: ArrayLike, values: ArrayLike) -> NDArray[np.uint8]:
    """A photo with a map of -1..1 over it: orange speaks for, blue against."""
    signed = np.asarray(values, np.float64)[..., None]
    opacity = 0.85 * np.clip(np.abs(signed), 0, 1) ** 0.8
    colours = np.where(signed > 0, _FOR, _AGAINST)
    faded = _faded(np.asarray(image, np.float64))
    return np.asarray(faded * (1 - opacity) + colours * opacity, np.uint8)


def _faded(photo: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grey, so that only the map is colourful."""
    return np.broadcast_to(photo.mean(axis=-1, keepdims=True), photo.shape)


def square(photo: ArrayLike, side: int) -> NDArray[np.uint8]:
    """A whole photo in a square of `side` px, on grey."""
    from PIL import Image

    picture = Image.fromarray(np.asarray(photo, np.uint8))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    board = Image.new("RGB", (side, side), (128, 128, 128))
    board.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(board)


def data_uri(image: ArrayLike, side: int | None = None, quality: int = 82) -> str:
    """A picture as a `data:` address, JPEG.

    Args:
        image: uint8 `[h, w, 3]`.
        side: Resize to this height and width, px. Default: as it is.
        quality: Of the JPEG, 1..95. Default 82.
    """
    from PIL import Image

    picture = Image.fromarray(np.asarray(image, np.uint8))
    if side:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_maps(
    model: str | Path,
    photos: Sequence[str | Path],
    folder: str | Path,
    *,
    force: bool = False,
) -> list[Path]:
    """Writes a picture for each photo: as the model sees it, and with its map.

    Args:
        model: A run folder or a `.keras` file.
        photos: Image files.
        folder: Where the pictures go, `<photo>.map.png` each; made if need be.
        force: Replace pictures that this package wrote.

    Returns:
        The pictures, in the order of the photos.

    Raises:
        APINetError: If the model is of another format, its features have no places, a
            photo cannot be read, or a picture cannot be written.
    """
    from PIL import Image

    from keras_apinet.data import prepare, read_photo
    from keras_apinet.loading import load

    place, folder = Path(model), Path(folder)
    if not (place.suffix == ".keras" or (place / "run.json").is_file()):
        raise APINetError(
            f"{str(place)!r} keeps no feature maps to show; give a run folder or a "
            ".keras file for --map."
        )
    targets: list[Path] = []
    for photo in photos:
        name, number = Path(photo).stem, 1
        path = folder / f"{name}.map.png"
        while path in targets:  # photos of one name from several folders
            number += 1
            path = folder / f"{name} {number}.map.png"
        check_output(path, "PNG picture", force)
        targets.append(path)
    run = Run.open(place) if place.is_dir() else None
    network = run.model() if run else load(place)
    resize = run.settings.get("resize", "fit") if run else "fit"
    feature_maps = FeatureMaps(network)
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for photo, path in zip(photos, targets, strict=True):
        pixels = read_photo(photo)
        size = network.image_size or min(pixels.shape[:2])
        image = prepare(pixels, size, resize=resize)
        shown = with_heat(
            image, class_activation(network, image, feature_maps=feature_maps)
        )
        picture = Image.fromarray(np.concatenate([image, shown], axis=1))
        write_output(path, picture_bytes(picture, path), force)
    return targets
