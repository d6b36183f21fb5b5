"""Photos as the model wants them, with nothing but Pillow and NumPy.

The same pixels as `keras_apinet.data.read_photo` and `prepare`, which need TensorFlow.
"""

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.data.decoding import decode_with_pillow, unreadable
from keras_apinet.pixels import as_rgb

# The paper resizes to 512 px and crops 448, as `keras_apinet.data` does.
_CROP = 7 / 8


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads a photo as uint8 RGB `[h, w, 3]`, turned upright.

    Raises:
        APINetError: For a file that is missing or is no image, with its name and why.
    """
    try:
        with open(path, "rb") as file:
            return decode_with_pillow(file.read())
    except Exception as error:
        raise unreadable(os.fspath(path), error) from error


def prepare(
    pixels: ArrayLike, image_size: int, resize: str = "fit"
) -> NDArray[np.uint8]:
    """The centre of a photo as the model sees it.

    Args:
        pixels: `[h, w, 3]`, `[h, w, 1]` or `[h, w]` in 0..255.
        image_size: px.
        resize: `"fit"` crops a square, 7/8 of the short side; `"squash"` crops 7/8 of
            height and width each and distorts that to a square.

    Returns:
        uint8 `[image_size, image_size, 3]`.
    """
    photo = as_rgb(pixels)
    size = np.array(photo.shape[:2])
    kept = np.repeat(size.min(), 2) if resize == "fit" else size
    kept = np.maximum(np.round(kept.astype(np.float32) * np.float32(_CROP)), 1)
    kept = kept.astype(int)
    top, left = (size - kept) // 2
    crop = photo[top : top + kept[0], left : left + kept[1]]
    return _resized(crop, image_size)


def _resized(photo: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    # One float image per channel: Pillow's 8-bit resize rounds between its two passes.
    planes = [
        Image.fromarray(photo[..., channel].astype(np.float32)).resize(
            (side, side), Image.Resampling.BILINEAR
        )
        for channel in range(3)
    ]
    resized = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return np.clip(np.round(resized), 0, 255).astype(np.uint8)
