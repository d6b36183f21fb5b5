"""Preprocessing of an image file to the model's pixels, without TensorFlow.

The same rule applies everywhere: the first picture of the file, turned upright
according to its EXIF or XMP data, with transparent areas white, 16 bits truncated to 8
and color profiles ignored; then 7/8 of it, resized. `graph_preprocessing` computes the
same inside TensorFlow graphs, `export/page/preparation.js` in browsers; docs/photos.md
has the table of formats, which tests/test_photo_formats.py checks.
"""

import contextlib
import io
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.data.photos.files import (
    HAS_HEIF,
    HEAVY,
    MAX_HEAVY_PIXELS,
    MAX_PIXELS,
    MAX_SCANS,
    read_file,
    unreadable,
)
from keras_apinet.pixels import as_rgb

if TYPE_CHECKING:
    from PIL import Image

# Recognized by content, whatever the file's name. TGA has no signature.
_FORMATS = [
    *("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "HEIF", "TIFF", "PPM"),
    *("JPEG2000", "TGA"),
]
# The paper resizes to 512 px and crops 448.
CROP = 7 / 8
_ORIENTATION = 0x0112
# Pixels converted at a time.
_BAND = 1 << 22
# Warning filters are shared by the whole process.
_WARNINGS = threading.Lock()
# Larger photos are decoded one at a time, so that threads need memory for only one.
_LARGE_PIXELS, _LARGE = 20_000_000, threading.Lock()
# Marker and length of a JPEG scan; an appended video contains the marker by chance.
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")


def decode(content: bytes) -> NDArray[np.uint8]:
    """Decodes the content of an image file: uint8 RGB `[h, w, 3]`, upright.

    Raises:
        OSError: If the bytes are not an image, or only part of one; if the header says
            more than `MAX_PIXELS`; or if the pixels have no defined range.
    """
    return np.array(upright(*_stored(content)), order="C")


def is_plain_jpeg(content: bytes) -> bool:
    """Whether TensorFlow decodes a JPEG file to the same pixels as `decode`."""
    try:
        with opened(content) as image:
            return (
                image.format in ("JPEG", "MPO")
                and image.mode in ("L", "RGB")
                and _orientation(image) == 1
            )
    except Exception:  # `decode` will report the error
        return False


def upright(pixels: Any, orientation: int) -> Any:
    """Undoes an EXIF `orientation`, 1..8, of `pixels`, `[h, w, 3]`."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses Pillow's warnings about large and damaged files."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def opened(content: bytes) -> "Image.Image":
    """Opens a picture in a supported format, without decoding any pixels yet.

    Raises:
        OSError: If the content is anything else, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    if HAS_HEIF and content[4:8] == b"ftyp":
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with _quiet():
            image = Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError as error:
        raise OSError(f"it has more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        brand = content[8:12]
        if content[4:8] == b"ftyp" and brand in (b"heic", b"heix", b"mif1", b"msf1"):
            raise OSError(
                "it is HEIC, which needs pip install 'keras-apinet[heic]'"
            ) from error
        raise OSError("it is not an image in a supported format") from error
    most = MAX_HEAVY_PIXELS if image.format in HEAVY else MAX_PIXELS
    if image.width * image.height > most:
        raise OSError(
            f"it has {image.width} x {image.height} pixels, but {most:,} is the most "
            "that is read"
        )
    # Each scan of a progressive file goes over all the pixels again.
    if image.format in ("JPEG", "MPO"):
        scans = len(_SCAN.findall(content))
        if scans > MAX_SCANS:
            raise OSError(f"it has {scans} scans, but {MAX_SCANS} is the most")
    return image


def _orientation(image: "Image.Image") -> int:
    # ImageMagick's own data in PNG files, which no other program reads.
    image.info.pop("Raw profile type exif", None)
    try:
        with _quiet():
            value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data does not make a photo unreadable
        return 1
    if isinstance(value, bytes) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _stored(content: bytes) -> tuple[NDArray[np.uint8], int]:
    """Returns the pixels as stored, and the orientation."""
    with opened(content) as image, contextlib.ExitStack() as stack:
        if image.width * image.height > _LARGE_PIXELS:
            stack.enter_context(_LARGE)
        image.load()
        width, height = image.size
        if not width * height:
            raise OSError("it has no pixels")
        if image.mode == "F":
            raise OSError("the pixels are floating-point numbers")
        pixels = np.empty((height, width, 3), np.uint8)
        convert = _deep(image) if image.mode.startswith("I") else _rgb
        # Pillow's conversion to an array takes three times the memory of the pixels.
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):
            band = image.crop((0, top, width, min(top + rows, height)))
            pixels[top : top + rows] = convert(band)
        return pixels, _orientation(image)


def _rgb(image: "Image.Image") -> NDArray[np.uint8]:
    from PIL import Image

    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return np.asarray(image.convert("RGB"))


def _deep(image: "Image.Image") -> Callable[["Image.Image"], NDArray[np.uint8]]:
    """Returns a converter for gray of 16 bits, or of 32 bits with at most 16 in use."""
    shift = 8
    if image.mode == "I" and image.format != "PPM":
        least, largest = image.getextrema()
        if least < 0 or largest > 65535:  # type: ignore[operator]
            raise OSError("the pixels have more than 16 bits")
        shift = 8 if largest > 255 else 0  # type: ignore[operator]
    clear = image.info.get("transparency")

    def convert(band: "Image.Image") -> NDArray[np.uint8]:
        values = np.asarray(band)
        grey = (values >> shift).astype(np.uint8)
        if isinstance(clear, int):
            grey[values == clear] = 255
        return grey[..., None]

    return convert


def read_content(
    kind: str, content: bytes, size: NDArray[np.int32], reference: str
) -> NDArray[np.uint8]:
    """Decodes the content that a reader fetched for one image, outside any pipeline.

    Args:
        kind: The reader's `kind`.
        content: A path, the bytes of a file, or pixels.
        size: Height and width, for pixels.
        reference: Name of the image, for errors.

    Returns:
        uint8 RGB `[h, w, 3]`, upright.
    """
    if kind == "raw":
        return np.frombuffer(content, np.uint8).reshape(*size, 3)
    try:
        if kind == "file":
            content = read_file(content)
        if not content:
            raise OSError("the file is empty")
        return decode(content)
    except Exception as error:
        raise unreadable(reference, error) from error


def read_photo(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Reads one photo exactly as the input pipelines do.

    Args:
        path: An image file.

    Returns:
        uint8 RGB `[h, w, 3]`, turned upright.

    Raises:
        APINetError: If the file is missing or cannot be read, with its name.
    """
    path = os.fspath(path)
    return read_content("file", os.fsencode(path), np.zeros(2, np.int32), path)


def prepare(
    pixels: ArrayLike,
    image_size: int,
    *,
    resize: str = "fit",
    box: ArrayLike | None = None,
) -> NDArray[np.uint8]:
    """Prepares one photo for the model, just like `evaluation_batches`.

    Args:
        pixels: `[h, w, 3]`, `[h, w, 1]` or `[h, w]` in 0..255, such as the output of
            `read_photo`.
        image_size: Side of the model's square images, px.
        resize: `"fit"` (default) crops a square, 7/8 of the short side; `"squash"`
            crops 7/8 of both height and width and distorts the crop to a square.
        box: Left, top, right, bottom of the object in pixels, to crop to, or None.

    Returns:
        uint8 `[image_size, image_size, 3]`, the center of the photo. Values may differ
        by one from those of `evaluation_batches` where a sum ends in .5.

    >>> prepare(np.zeros((40, 60, 3), "uint8"), image_size=32).shape
    (32, 32, 3)
    """
    from PIL import Image

    from keras_apinet.data.photos.augmentation import check_options

    check_options(image_size, "none", resize)
    photo = as_rgb(pixels)
    if box is not None:
        limit = np.array(photo.shape[1::-1])
        place = np.asarray(box, np.float32)
        start = np.clip(np.floor(place[:2]), 0, limit - 1).astype(int)
        end = np.clip(np.ceil(place[2:]), start + 1, limit).astype(int)
        photo = photo[start[1] : end[1], start[0] : end[0]]
    size = np.array(photo.shape[:2])
    kept = np.repeat(size.min(), 2) if resize == "fit" else size
    kept = np.maximum(np.round(kept.astype(np.float32) * np.float32(CROP)), 1)
    kept = kept.astype(int)
    top, left = (size - kept) // 2
    crop = photo[top : top + kept[0], left : left + kept[1]]
    # One float image per channel, because Pillow's 8-bit resize rounds between passes.
    planes = [
        Image.fromarray(crop[..., channel].astype(np.float32)).resize(
            (image_size, image_size), Image.Resampling.BILINEAR
        )
        for channel in range(3)
    ]
    resized = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    return np.clip(np.round(resized), 0, 255).astype(np.uint8)
