"""Which files are photos, by their endings and by what the file system says."""

import importlib.util
import os
import stat
from collections.abc import Mapping
from pathlib import PurePath

from keras_apinet.errors import APINetError, reason

_HEIC = (".heic", ".heif", ".hif")
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
# Endings of the files that are read.
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp"),
    *(".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(".jp2", *(_HEIC if HAS_HEIF else ())),
)
_RAW = (
    *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2"),
    *(".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".kdc", ".mrw"),
)
# Endings of pictures that are not read, and the way out.
UNREAD_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(_RAW, "raw camera data: develop them to JPEG"),
    **dict.fromkeys((".svg", ".eps", ".pdf", ".ai"), "drawings: draw them as PNG"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra"), "layers: save them flat as PNG"),
    **dict.fromkeys((".ico", ".icns", ".cur"), "icons: save them as PNG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv"), "films: save frames as JPEG"),
    **dict.fromkeys((".jxl", ".jxr", ".exr", ".hdr"), "save them as JPEG or PNG"),
    **dict.fromkeys((".dds", ".dcm"), "save them as JPEG or PNG"),
    **({} if HAS_HEIF else dict.fromkeys(_HEIC, "pip install 'keras-apinet[heic]'")),
}
# Decoding takes 7 to 12 bytes a pixel, and 16 to 20 in the formats of `HEAVY`: so the
# most is between 1 and 1.5 GB.
MAX_PIXELS = 110_000_000
MAX_HEAVY_PIXELS = 50_000_000
HEAVY = ("WEBP", "AVIF", "HEIF", "JPEG2000")
MAX_BYTES = 1 << 29
MAX_SCANS = 100


def unread(counts: Mapping[str, int]) -> str:
    """One sentence on pictures that are left out, or an empty string.

    Args:
        counts: Files by ending, of which those in `UNREAD_SUFFIXES` count.
    """
    parts = [
        f"{counts[suffix]} {suffix} ({UNREAD_SUFFIXES[suffix]})"
        for suffix in sorted(counts)
        if suffix in UNREAD_SUFFIXES and counts[suffix]
    ]
    return f"left out: {', '.join(parts)}" if parts else ""


def check_file(path: str | bytes | os.PathLike[str]) -> None:
    """Looks at a file without opening it.

    Raises:
        OSError: For a file that is missing, is not a regular file (a pipe would be
            waited for), is empty, or is too large to be a photo.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise OSError(f"it is {kind}")
    if not facts.st_size:
        raise OSError("the file is empty")
    if facts.st_size > MAX_BYTES:
        raise OSError(
            f"it has {facts.st_size:,} bytes, and {MAX_BYTES:,} is the most that is "
            "read"
        )


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """The bytes of a photo; see `check_file`."""
    check_file(path)
    with open(path, "rb") as file:
        return file.read()


def unreadable(reference: str, error: BaseException) -> APINetError:
    """The error that names an image and says why it could not be read."""
    why = reason(error)
    way_out = UNREAD_SUFFIXES.get(PurePath(reference).suffix.lower())
    if way_out:
        why = f"{why}; {way_out}"
    return APINetError(
        f"The image {reference!r} cannot be read ({why}): repair it or take it out "
        "of the data."
    )
