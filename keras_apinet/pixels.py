"""The check that pixels are 0..255, as in an image file, wherever they are passed in.

Models scale pixels themselves. Pixels that were already scaled would silently be
treated as a nearly black image.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError

# Interpolation and noise exceed 0..255 by at most a quarter.
MARGIN = 64.0
# An image darker than this with negative pixels was not 0..255, but was scaled to
# -1..1, or normalized by mean and deviation.
DARK = 16.0


def check_pixels(
    pixels: NDArray[Any], what: str = "The images", margin: float = MARGIN
) -> None:
    """Rejects pixels that cannot come from an image file.

    Values may exceed 0..255 by `margin`.

    Raises:
        APINetError: For NaN, booleans, values far outside 0..255, negative values in
            dark images, or fractions without any value above 1. A completely black
            image is valid.
    """
    if pixels.dtype == np.uint8 or not pixels.size:
        return
    if pixels.dtype.kind not in "iuf" and "float" not in pixels.dtype.name:
        raise not_numbers(pixels.dtype, what)
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise wrong_pixels(np.inf, what)
    if low < -margin or (low < 0 and high <= DARK):
        raise wrong_pixels(low, what)
    if high > 255 + margin or (high <= 1 and (pixels != np.floor(pixels)).any()):
        raise wrong_pixels(high, what)


def wrong_pixels(value: float, what: str = "The images") -> APINetError:
    """Creates the error for pixels whose worst value is `value`.

    That is a negative pixel, one above 255, the largest of pixels scaled to 0..1, or
    infinity if some are NaN or infinite.
    """
    if not np.isfinite(value):
        found = "some are nan or infinite; leave such images out"
    elif value < 0:
        found = (
            f"they go down to {value:g}; undo the normalization (the model does its "
            "own), and clip what interpolation made"
        )
    elif value > 1:
        found = (
            f"they go to {value:g}; divide 16-bit pixels by 257, and clip what "
            "interpolation made"
        )
    else:
        found = (
            f"there are fractions and none is above {value:g}: they seem to be scaled "
            "to 0..1; multiply by 255"
        )
    return APINetError(f"{what} do not fit: pixels must lie in 0..255, but {found}.")


def not_numbers(dtype: Any, what: str = "The images") -> APINetError:
    """Creates the error for pixels of an unsupported dtype."""
    return APINetError(
        f"{what} do not fit: pixels must lie in 0..255, but came as dtype={dtype}; "
        "give uint8 or floats, and multiply booleans by 255."
    )


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """Converts one image to uint8 `[h, w, 3]`; gray becomes three equal channels.

    It can be `[h, w, 3]`, `[h, w, 1]` or `[h, w]`, 0..255; see `check_pixels`.
    """
    pixels: NDArray[Any] = np.asarray(image)
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in shape:
        raise APINetError(
            f"An image must be [h, w, 3] with pixels 0..255; got shape={shape}."
        )
    check_pixels(pixels, "The pixels of an image", margin=0)
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
