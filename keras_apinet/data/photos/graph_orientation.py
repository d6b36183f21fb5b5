"""Camera orientation, read from JPEG and PNG bytes inside TensorFlow graphs.

The value is the same as that of Pillow's `getexif`: the tag in the first EXIF
directory, of any integer type, or else the one in XMP data.
"""

from typing import Any

import tensorflow as tf

from keras_apinet.types import Tensor

_XMP = rb'\C*?tiff:Orientation(?:="|>)([0-9])\C*'
_XMP_JPEG, _XMP_PNG = b"http://ns.adobe.com/xap/1.0/\0", b"XML:com.adobe.xmp\0\0"
# Sizes and positions of the integer types of a tag's value: BYTE, SHORT, LONG.
_BYTES, _SHORTS, _LONGS = (1, 6, 7), (3, 8), (4, 9)
_SHORT, _LONG = [256, 1], [256**3, 256**2, 256, 1]


def jpeg_orientation(content: Tensor) -> Tensor:
    """Reads a JPEG's EXIF orientation, 1..8, int32, from segments before the pixels."""

    def walk(at: Tensor, exif: Tensor, xmp: Tensor) -> tuple[Tensor, ...]:
        mark, kind, high, low = tf.unstack(_digits(content, at, 4), 4)
        size = 256 * high + low
        has_metadata = kind == 0xE1
        body = _part(content, at + 4, tf.where(has_metadata, size - 2, 0))
        exif = tf.where(_starts(body, b"Exif\0\0"), exif + _part(body, 6, -1), exif)
        is_xmp = _starts(body, _XMP_JPEG)
        xmp = tf.where(is_xmp, _part(body, len(_XMP_JPEG), -1), xmp)
        # The pixels start, the file ends, or it is damaged.
        last = (mark != 0xFF) | (kind == 0xDA) | (kind == 0xD9)
        # A marker may be preceded by any number of 0xFF.
        step = tf.where(kind == 0xFF, _int64(1), size + 2)
        return tf.where(last, _length(content), at + step), exif, xmp

    return _value(*_walk(content, 2, walk))


def png_orientation(content: Tensor) -> Tensor:
    """Reads a PNG file's EXIF orientation, 1..8, int32, from any of its chunks."""

    def walk(at: Tensor, exif: Tensor, xmp: Tensor) -> tuple[Tensor, ...]:
        size = _number(_digits(content, at, 4), _LONG)
        kind = _part(content, at + 4, 4)
        told = (kind == b"eXIf") | (kind == b"iTXt")
        body = _part(content, at + 8, tf.where(told, size, 0))
        exif = tf.where(kind == b"eXIf", body, exif)
        xmp = tf.where((kind == b"iTXt") & _starts(body, _XMP_PNG), body, xmp)
        return at + 12 + size, exif, xmp

    return _value(*_walk(content, 8, walk))


def upright(pixels: Tensor, orientation: Tensor) -> Tensor:
    """Undoes an orientation, 1..8, of pixels `[h, w, 3]`."""

    def when(values: tuple[int, ...], turn: Any, image: Tensor) -> Tensor:
        turned = tf.reduce_any(orientation == tf.constant(values))
        return tf.cond(turned, lambda: turn(image), lambda: image)

    pixels = when((5, 6, 7, 8), lambda x: tf.transpose(x, [1, 0, 2]), pixels)
    pixels = when((3, 4, 7, 8), lambda x: tf.reverse(x, [0]), pixels)
    return when((2, 3, 6, 7), lambda x: tf.reverse(x, [1]), pixels)


def _walk(content: Tensor, start: int, step: Any) -> tuple[Tensor, Tensor]:
    first = (tf.constant(start, tf.int64), tf.constant(b""), tf.constant(b""))
    _, exif, xmp = tf.while_loop(
        lambda at, *_: at < _length(content), step, first, parallel_iterations=1
    )
    return exif, xmp


def _value(exif: Tensor, xmp: Tensor) -> Tensor:
    """Returns the orientation from EXIF data if it has one, else from XMP data."""

    def of_xmp() -> Tensor:
        found = tf.strings.regex_full_match(xmp, _XMP)
        digit = tf.strings.regex_replace(xmp, _XMP, rb"\1")
        return tf.cond(
            found, lambda: tf.strings.to_number(digit, tf.int64), lambda: _int64(1)
        )

    little = _part(exif, 0, 1) == b"I"

    def ordered(digits: Tensor) -> Tensor:
        return tf.where(little, tf.reverse(digits, [-1]), digits)

    start = _number(ordered(_digits(exif, 4, 4)), _LONG)
    count = _number(ordered(_digits(exif, start, 2)), _SHORT)
    entries = tf.io.decode_raw(_part(exif, start + 2, 12 * count), tf.uint8)
    entries = tf.cast(entries[: tf.size(entries) // 12 * 12], tf.int64)
    entries = tf.reshape(entries, [-1, 12])
    tag = _number(ordered(entries[:, :2]), _SHORT)
    entries = tf.boolean_mask(entries, tag == 0x0112)
    present = tf.shape(entries)[0] > 0
    entry = tf.concat([entries, tf.zeros([1, 12], tf.int64)], 0)[0]
    kind = _number(ordered(entry[2:4]), _SHORT)
    one = _number(ordered(entry[4:8]), _LONG) == 1
    value = tf.where(_among(kind, _BYTES), entry[8], 1)
    value = tf.where(
        _among(kind, _SHORTS), _number(ordered(entry[8:10]), _SHORT), value
    )
    value = tf.where(_among(kind, _LONGS), _number(ordered(entry[8:]), _LONG), value)
    value = tf.cond(present, lambda: tf.where(one, value, 1), of_xmp)
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


def _int64(value: Any) -> Tensor:
    return tf.cast(value, tf.int64)


def _length(content: Tensor) -> Tensor:
    return _int64(tf.strings.length(content))


def _part(content: Tensor, start: Any, size: Any) -> Tensor:
    """Returns available bytes of a range; a size of -1 means all remaining ones."""
    start = tf.minimum(_int64(start), _length(content))
    size = tf.where(_int64(size) < 0, _length(content), _int64(size))
    return tf.strings.substr(content, start, size)


def _digits(content: Tensor, start: Any, count: int) -> Tensor:
    """Returns a fixed number of bytes as int64, padded with zeros past the end."""
    found = _part(content, start, count) + bytes(count)
    return _int64(tf.io.decode_raw(found, tf.uint8))[:count]


def _number(digits: Tensor, weights: list[int]) -> Tensor:
    return tf.reduce_sum(digits * tf.constant(weights, tf.int64), -1)


def _starts(content: Tensor, prefix: bytes) -> Tensor:
    return tf.strings.substr(content, 0, len(prefix)) == prefix


def _among(value: Tensor, values: tuple[int, ...]) -> Tensor:
    return tf.reduce_any(value == tf.constant(values, tf.int64))
