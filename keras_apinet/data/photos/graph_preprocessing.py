"""The equivalent of `preprocessing` inside TensorFlow graphs.

`decode` is for the input pipelines: TensorFlow decodes ordinary JPEG and PNG files,
because its threads share no lock, and Pillow decodes the rest. `decode_alone` is for
the SavedModel, which only has TensorFlow. TensorFlow and Pillow include the same JPEG
decoder with the same settings, so the pixels do not depend on which one reads a file.
"""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from keras_apinet.data.photos import preprocessing
from keras_apinet.data.photos.files import MAX_PIXELS
from keras_apinet.data.photos.graph_orientation import (
    jpeg_orientation,
    png_orientation,
    upright,
)
from keras_apinet.data.photos.preprocessing import CROP
from keras_apinet.types import Tensor

# The start of a JPEG file without metadata before its tables, whose pixels are in one
# scan of all three colors. TensorFlow matches characters; see `_characters`.
_BARE_JPEG = r"(?s)\xff\xd8(?:\xff\xe0\x00\x10.{14})?\xff\xdb.*\xff\xda\x00\x0c\x03.*"
# Metadata, or a progressive frame.
_METADATA = r"(?s).*(?:Exif\x00|http://ns|\xff\xc2\x00\x11).*"
# At most 8191 px on each side, bit depth 8, color type gray or RGB.
_PLAIN_PNG = (
    r"(?s)\x89PNG.{8}IHDR\x00\x00[\x00-\x1f].\x00\x00[\x00-\x1f].\x08[\x00\x02]"
)
# A rotation, or one transparent color; `\C` is any byte.
_PNG_EXTRAS = rb"\C*(?:eXIf|tRNS|XML:com\.adobe\.xmp)\C*"
# Putting white behind transparent areas takes 25 bytes per pixel.
MAX_PNG_PIXELS = 40_000_000
_JPEG_MARK, _PNG_MARK = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode(content: Tensor) -> Tensor:
    """Decodes the bytes of an image file in a graph: uint8 RGB `[h, w, 3]`, upright."""

    def jpeg() -> Tensor:
        head = _characters(content, 1024)
        bare = tf.strings.regex_full_match(head, _BARE_JPEG)
        bare &= ~tf.strings.regex_full_match(head, _METADATA)
        # Cheaper than counting pixels; larger files are checked exactly.
        bare &= tf.reduce_max(tf.io.extract_jpeg_shape(content)) <= int(MAX_PIXELS**0.5)
        return tf.cond(bare, lambda: _jpeg_pixels(content), other_jpeg)

    def other_jpeg() -> Tensor:
        plain = _in_python(preprocessing.is_plain_jpeg, content, tf.bool)
        return tf.cond(plain, lambda: _jpeg_pixels(content), pillow)

    def png() -> Tensor:
        has_extras = tf.strings.regex_full_match(content, _PNG_EXTRAS)
        return tf.cond(
            has_extras, pillow, lambda: tf.io.decode_png(content, channels=3)
        )

    def pillow() -> Tensor:
        pixels = _in_python(preprocessing.decode, content, tf.uint8)
        return tf.ensure_shape(pixels, [None, None, 3])

    def other() -> Tensor:
        plain = tf.strings.regex_full_match(_characters(content, 26), _PLAIN_PNG)
        return tf.cond(plain, png, pillow)

    return tf.cond(tf.strings.substr(content, 0, 3) == _JPEG_MARK, jpeg, other)


def decode_alone(content: Tensor) -> Tensor:
    """Decodes a JPEG or PNG file with TensorFlow's own operations.

    Returns the same as `decode`; transparent areas are white.

    Raises:
        tf.errors.InvalidArgumentError: For another format, a damaged file, or more than
            `MAX_PIXELS` (`MAX_PNG_PIXELS` for PNG), before they are decoded.
    """

    def checked(pixel_count: Tensor, most: int) -> Any:
        fits = (pixel_count > 0) & (pixel_count <= most)
        return tf.control_dependencies([tf.debugging.Assert(fits, [pixel_count])])

    def jpeg() -> Tensor:
        with checked(_pixel_count(tf.io.extract_jpeg_shape(content)), MAX_PIXELS):
            return upright(_jpeg_pixels(content), jpeg_orientation(content))

    def png() -> Tensor:
        sides = tf.io.decode_raw(tf.strings.substr(content, 16, 8), tf.int32, False)
        with checked(_pixel_count(sides), MAX_PNG_PIXELS):
            rgba = tf.io.decode_png(content, channels=4)
        # If a file has no alpha, TensorFlow fills in the largest value of its depth.
        depth = tf.io.decode_raw(tf.strings.substr(content, 24, 1), tf.uint8)[0]
        top = tf.bitwise.left_shift(1, tf.cast(tf.minimum(depth, 8), tf.int32)) - 1
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        opaque = tf.reduce_all(alpha == tf.cast(top, tf.uint8))
        pixels = tf.cond(opaque, lambda: rgb, lambda: _on_white(rgb, alpha))
        return upright(pixels, png_orientation(content))

    return tf.cond(tf.strings.substr(content, 0, 3) == _JPEG_MARK, jpeg, png)


def prepare_or_blank(
    content: Tensor, image_size: int, resize: str
) -> tuple[Tensor, Tensor]:
    """Prepares one encoded photo for the model; no photo can fail a whole request.

    Returns:
        uint8 `[image_size, image_size, 3]` (black if the file cannot be read), and a
        sentence that explains why it cannot be read, or an empty string.
    """

    def ready(content: Tensor) -> Tensor:
        return to_uint8(crop_and_resize(decode_alone(content), image_size, resize))

    def keep(_: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return image, tf.constant("")

    known = (tf.strings.substr(content, 0, 3) == _JPEG_MARK) | (
        tf.strings.substr(content, 0, 8) == _PNG_MARK
    )
    problem = tf.where(
        known,
        f"The photo is damaged, or has more than {MAX_PIXELS:,} pixels (PNG: "
        f"{MAX_PNG_PIXELS:,}).",
        "The photo is neither JPEG nor PNG; send it as one of these.",
    )
    blank = tf.zeros([image_size, image_size, 3], tf.uint8)
    one = tf.data.Dataset.from_tensors(content).filter(lambda content: known)
    one = one.map(ready).ignore_errors()
    image, problem = one.reduce((blank, problem), keep)
    return image, problem


def crop_and_resize(
    pixels: Tensor,
    image_size: int,
    resize: str,
    seed: Tensor | None = None,
    box: Tensor | None = None,
) -> Tensor:
    """Crops 7/8 of a photo and resizes the crop to the image size.

    Uses TensorFlow's own operations, because Keras's `RandomCrop` and `Resizing` need
    sizes known when the pipeline is built, and `RandomFlip` computes both orientations
    of the image in float32, which takes as long as decoding the photo.

    This is the paper's resize to 8/7 of the image size and crop to the image size, in
    the cheaper order: only the crop is resized, with antialiasing if it shrinks.

    Args:
        pixels: uint8 `[h, w, 3]`.
        image_size: Side of the square images, px.
        resize: `"fit"` crops a square, 7/8 of the short side; `"squash"` crops 7/8 of
            both height and width and distorts the crop to a square.
        seed: int32 `[2]` for a random position and a flip of every other image, or None
            for the center.
        box: `[4]` left, top, right, bottom in pixels, to crop to before anything else,
            or None.

    Returns:
        float32 `[image_size, image_size, 3]` in 0..255.
    """
    if box is not None:
        limit = tf.cast(tf.shape(pixels)[1::-1], tf.float32)
        start = tf.clip_by_value(tf.floor(box[:2]), 0.0, limit - 1.0)
        end = tf.clip_by_value(tf.math.ceil(box[2:]), start + 1.0, limit)
        first, last = tf.cast(start, tf.int32), tf.cast(end, tf.int32)
        pixels = pixels[first[1] : last[1], first[0] : last[0]]
    size = tf.shape(pixels)[:2]
    kept = tf.reduce_min(size) * tf.ones(2, tf.int32) if resize == "fit" else size
    kept = tf.cast(tf.round(tf.cast(kept, tf.float32) * CROP), tf.int32)
    kept = tf.maximum(kept, 1)
    if seed is None:
        corner = (size - kept) // 2
    else:
        room = size - kept
        share = tf.random.stateless_uniform([3], seed)
        corner = tf.cast(share[:2] * tf.cast(room + 1, tf.float32), tf.int32)
        corner = tf.minimum(corner, room)
    crop = tf.slice(pixels, [corner[0], corner[1], 0], [kept[0], kept[1], 3])
    if seed is not None:
        crop = tf.cond(share[2] < 0.5, lambda: tf.reverse(crop, [1]), lambda: crop)
    # When not shrinking, antialiasing changes nothing and takes twice as long.
    target = [image_size, image_size]
    exactly = functools.partial(tf.image.resize, crop, target, antialias=True)
    fast = functools.partial(_shrink_fast, crop, image_size)
    shrink = exactly
    if seed is not None:
        shrink = functools.partial(
            tf.cond, tf.reduce_min(kept) < image_size, exactly, fast
        )
    image = tf.cond(
        tf.reduce_max(kept) > image_size,
        shrink,
        lambda: tf.image.resize(crop, target),
    )
    return tf.ensure_shape(image, [*target, 3])


def _shrink_fast(crop: Tensor, image_size: int) -> Tensor:
    """Approximates an antialiased bilinear resize in a fraction of the time.

    The mean of the area under each new pixel is slightly sharper than the images in
    evaluation. Up to a ratio of 1.5, the difference is below 5 %. Beyond that, a faint
    blur compensates, which is stronger the more an image shrinks; its strength was
    fitted to photos.
    """
    small = tf.image.resize(crop, [image_size, image_size], method="area")
    ratio = tf.cast(tf.shape(crop)[:2], tf.float32) / image_size

    def blurred() -> Tensor:
        side = 0.06 * tf.clip_by_value(ratio - 1.0, 0.0, 1.0)
        rows, columns = (tf.stack([s, 1.0 - 2.0 * s, s]) for s in tf.unstack(side))
        weights = tf.tile((rows[:, None] * columns)[..., None, None], [1, 1, 3, 1])
        padded = tf.pad(small, [[1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        return tf.nn.depthwise_conv2d(padded[None], weights, [1, 1, 1, 1], "VALID")[0]

    return tf.cond(tf.reduce_max(ratio) < 1.5, lambda: small, blurred)


def to_uint8(images: Tensor) -> Tensor:
    """Rounds float pixels in 0..255 to uint8, with halves to even like NumPy."""
    return tf.cast(tf.round(images), tf.uint8)


def _in_python(function: Any, content: Tensor, kind: Any) -> Tensor:
    def call(data: Any) -> Any:
        # Eager calls pass an array of one object, graphs the bytes themselves.
        return function(np.asarray(data, object).item())

    return tf.numpy_function(call, [content], kind)


def _characters(content: Tensor, length: int) -> Tensor:
    """Returns the first bytes, each as the character with its code.

    TensorFlow's regular expressions read UTF-8, so none matches a byte above 127.
    """
    head = tf.strings.substr(content, 0, length)
    return tf.strings.unicode_transcode(head, "ISO-8859-1", "UTF-8")


def _on_white(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Computes `rgb * alpha / 255 + 255 - alpha`, rounded, within 16 bits."""
    alpha = tf.cast(alpha, tf.uint16)
    mixed = tf.cast(rgb, tf.uint16) * alpha + (255 - alpha) * 255 + 128
    mixed += tf.bitwise.right_shift(mixed, tf.constant(8, tf.uint16))
    return tf.cast(tf.bitwise.right_shift(mixed, tf.constant(8, tf.uint16)), tf.uint8)


def _jpeg_pixels(content: Tensor) -> Tensor:
    return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")


def _pixel_count(shape: Tensor) -> Tensor:
    return tf.reduce_prod(tf.cast(shape[:2], tf.int64))
