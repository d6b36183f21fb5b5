"""From the bytes of an image file to upright RGB pixels, the same way everywhere.

Plain JPEG and PNG files are decoded by TensorFlow inside the pipeline. Everything else
(CMYK, palette, alpha, 16 bit, EXIF rotation, WebP, TIFF, animations: the first frame)
goes to Pillow. Both use the same JPEG decoder with the same settings, so which of the
two reads a file does not show in the pixels.
"""

import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.types import Tensor

# The EXIF entry "orientation" with a value other than 1, in both byte orders. `\C` is
# any byte, `.` would be any valid UTF-8 character.
_ROTATED = (
    rb"\C*(?:\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    rb"|\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00)\C*"
)
_EXIF = rb"\C*Exif\x00\C*"
# The pixels of a JPEG file begin; what a file says about itself lies before.
_PIXELS = rb"\C*\xff\xda\C*"
# Bit depth 8, colour type grey or RGB.
_PLAIN_PNG = rb"\C{12}IHDR\C{8}\x08[\x00\x02]"
# A rotation, or one colour that is transparent.
_PNG_EXTRAS = rb"\C*(?:eXIf|tRNS)\C*"


def decode(content: Tensor) -> Tensor:
    """Decodes the bytes of one image file inside a TensorFlow graph.

    Args:
        content: scalar string tensor.

    Returns:
        uint8 RGB `[h, w, 3]`, upright.
    """
    import tensorflow as tf

    def head_matches(length: int, pattern: bytes) -> Tensor:
        head = tf.strings.substr(content, 0, length)
        return tf.strings.regex_full_match(head, pattern)

    def jpeg() -> Tensor:
        # Searching far takes a tenth of decoding, and most files hold no EXIF data.
        bare = head_matches(1024, _PIXELS) & ~head_matches(1024, _EXIF)
        rotated = tf.cond(
            bare, lambda: tf.constant(False), lambda: head_matches(65536, _ROTATED)
        )
        is_cmyk = tf.io.extract_jpeg_shape(content)[2] == 4
        return tf.cond(rotated | is_cmyk, pillow, plain_jpeg)

    def plain_jpeg() -> Tensor:
        return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")

    def png() -> Tensor:
        has_extras = tf.strings.regex_full_match(content, _PNG_EXTRAS)
        return tf.cond(
            has_extras, pillow, lambda: tf.io.decode_png(content, channels=3)
        )

    def pillow() -> Tensor:
        # Eager calls hand over an array of one object, graphs the bytes themselves.
        pixels = tf.numpy_function(
            lambda data: decode_with_pillow(np.asarray(data, object).item()),
            [content],
            tf.uint8,
        )
        return tf.ensure_shape(pixels, [None, None, 3])

    return tf.cond(
        tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff",
        jpeg,
        lambda: tf.cond(head_matches(26, _PLAIN_PNG), png, pillow),
    )


def decode_with_pillow(content: bytes) -> NDArray[np.uint8]:
    """Decodes any file that Pillow knows.

    Transparent pixels become white, 16 bits become 8 by dropping the lower ones, an
    animation gives its first frame.

    Args:
        content: the bytes of the file.

    Returns:
        uint8 RGB `[h, w, 3]`, upright.

    Raises:
        OSError: for bytes that are no image, or only part of one.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            values = np.asarray(upright).astype(np.int64)
            if values.size and (values.min() < 0 or values.max() > 65535):
                raise OSError("the pixels have more than 16 bits")
            grey = (values if values.max() < 256 else values >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        if upright.mode == "F":
            raise OSError("the pixels are floating-point numbers")
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            upright = Image.alpha_composite(white, rgba)
        return np.array(upright.convert("RGB"))


def read_content(
    kind: str, content: bytes, size: NDArray[np.int32], reference: str
) -> NDArray[np.uint8]:
    """Decodes what a reader fetched for one image, outside of any pipeline.

    Args:
        kind: the reader's `kind`.
        content: a path, the bytes of a file, or pixels.
        size: height and width, for pixels.
        reference: the image's name, for the error.

    Returns:
        uint8 RGB `[h, w, 3]`, upright.

    Raises:
        APINetError: for an image that cannot be read, with its name and why.
    """
    import tensorflow as tf

    if kind == "raw":
        return np.frombuffer(content, np.uint8).reshape(*size, 3)
    try:
        if kind == "file":
            with open(os.fsdecode(content), "rb") as file:
                content = file.read()
        if not content:
            raise OSError("the file is empty")
        try:
            with tf.device("cpu"):
                return np.asarray(decode(tf.constant(content)))
        except tf.errors.OpError:
            return decode_with_pillow(content)
    except Exception as error:
        raise unreadable(reference, error) from error


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads one photo exactly as the input pipelines do.

    Args:
        path: an image file.

    Returns:
        uint8 RGB `[h, w, 3]`, turned upright.

    Raises:
        APINetError: for a file that is missing or cannot be read, with its name.
    """
    path = os.fspath(path)
    return read_content("file", os.fsencode(path), np.zeros(2, np.int32), path)


def unreadable(reference: str, error: BaseException) -> APINetError:
    """The error that names an image and says why it could not be read."""
    reason: Any = getattr(error, "strerror", None) or str(error) or repr(error)
    if "cannot identify image" in reason:
        reason = "it is not an image"
    return APINetError(
        f"The image {reference!r} cannot be read ({reason}): repair it or take it out "
        "of the data."
    )
