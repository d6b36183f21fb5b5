"""Recognition of photo files, and search for them in folders."""

import csv
import glob
import importlib.util
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from keras_apinet.errors import APINetError, reason

_HEIC = (".heic", ".heif", ".hif")
HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None
# Extensions of the files that are read.
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp"),
    *(".webp", ".avif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(".jp2", *(_HEIC if HAS_HEIF else ())),
)
_RAW = (
    *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2"),
    *(".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".kdc", ".mrw"),
)
# Extensions of pictures that are not read, and what to do instead.
UNREAD_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys(_RAW, "raw camera data: develop them to JPEG"),
    **dict.fromkeys((".svg", ".eps", ".pdf", ".ai"), "drawings: export them as PNG"),
    **dict.fromkeys((".psd", ".psb", ".xcf", ".kra"), "layers: flatten them to PNG"),
    **dict.fromkeys((".ico", ".icns", ".cur"), "icons: save them as PNG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv"), "videos: save frames as JPEG"),
    **dict.fromkeys((".jxl", ".jxr", ".exr", ".hdr"), "save them as JPEG or PNG"),
    **dict.fromkeys((".dds", ".dcm"), "save them as JPEG or PNG"),
    **({} if HAS_HEIF else dict.fromkeys(_HEIC, "pip install 'keras-apinet[heic]'")),
}
# Decoding takes 7 to 12 bytes per pixel, and 16 to 20 in the formats of `HEAVY`, so the
# maximum is between 1 and 1.5 GB.
MAX_PIXELS = 110_000_000
MAX_HEAVY_PIXELS = 50_000_000
HEAVY = ("WEBP", "AVIF", "HEIF", "JPEG2000")
MAX_BYTES = 1 << 29
MAX_SCANS = 100


def unread(counts: Mapping[str, int]) -> str:
    """Summarizes by extension which pictures are left out, or returns an empty text."""
    parts = [
        f"{counts[suffix]} {suffix} ({UNREAD_SUFFIXES[suffix]})"
        for suffix in sorted(counts)
        if suffix in UNREAD_SUFFIXES and counts[suffix]
    ]
    return f"left out: {', '.join(parts)}" if parts else ""


def check_file(path: str | bytes | os.PathLike[str]) -> None:
    """Checks a file without opening it.

    Raises:
        OSError: If the file is missing, not a regular file (reading a pipe would
            block), empty, or too large to be a photo.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise OSError(f"it is {kind}")
    if not facts.st_size:
        raise OSError("the file is empty")
    if facts.st_size > MAX_BYTES:
        raise OSError(
            f"it has {facts.st_size:,} bytes, but {MAX_BYTES:,} is the most that is "
            "read"
        )


def read_file(path: str | bytes | os.PathLike[str]) -> bytes:
    """Returns the bytes of a photo; see `check_file`."""
    check_file(path)
    with open(path, "rb") as file:
        return file.read()


def unreadable(reference: str, error: BaseException) -> APINetError:
    """Creates the error that names an image and why it could not be read."""
    why = reason(error)
    way_out = UNREAD_SUFFIXES.get(PurePath(reference).suffix.lower())
    if way_out:
        why = f"{why}; {way_out}"
    return APINetError(
        f"The image {reference!r} cannot be read ({why}); repair it or remove it from "
        "the data."
    )


# Spreadsheets leave these around a cell, besides quotes and spaces of all kinds.
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
# Folders left by operating systems and storage devices, some with thumbnails.
_JUNK = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "__pycache__"),
    *("system volume information", "@tmp", "#snapshot"),
}


@dataclass
class Folder:
    """A folder with images in or below it, before its layout is interpreted."""

    name: str
    path: str
    images: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    def all_images(self) -> Iterator[str]:
        """Number of images here and below."""
        waiting = [self]
        while waiting:
            here = waiting.pop()
            yield from here.images
            waiting += reversed(here.folders)


class Scan:
    """Scans a folder once, and records what was skipped."""

    def __init__(self, path: str) -> None:
        self._endings: Counter[str] = Counter()
        self._special: list[str] = []
        self._closed: list[str] = []
        self.root = Folder(os.path.basename(os.path.abspath(path)), path)
        top = os.stat(path)
        self._list(self.root, set())
        if self._closed:
            raise APINetError(
                f"The folder {path!r} cannot be read; check its permissions."
            )
        for folder in self.root.folders:
            # A link may lead to images of another class; a loop is entered only once.
            self._walk(folder, {(top.st_dev, top.st_ino)})
        self.root.folders = [f for f in self.root.folders if f.images or f.folders]

    def notes(self) -> Iterator[str]:
        """Describes what was skipped, in sentences."""
        if self._endings:
            yield f"Pictures in unsupported formats are {unread(self._endings)}."
        for what, paths in (
            ("entries that are not regular files", self._special),
            ("folders that cannot be opened", self._closed),
        ):
            if paths:
                yield f"{len(paths):,} {what} are left out; the first is {paths[0]!r}."

    def _walk(self, top: Folder, seen: set[tuple[int, int]]) -> None:
        waiting, visited = [top], []
        while waiting:
            here = waiting.pop()
            try:
                status = os.stat(here.path)
            except OSError:
                self._closed.append(here.path)
                continue
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            visited.append(here)
            self._list(here, seen)
            waiting += reversed(here.folders)
        for here in reversed(visited):
            here.folders = [f for f in here.folders if f.images or f.folders]

    def _list(self, here: Folder, seen: set[tuple[int, int]]) -> None:
        try:
            with os.scandir(here.path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            self._closed.append(here.path)
            return
        for entry in entries:
            name = entry.name.lower()
            if name[0] == "." or name in _JUNK:
                continue
            try:
                mode = entry.stat().st_mode
            except OSError:  # a link to nothing, or to itself
                mode = 0
            if stat.S_ISDIR(mode):
                here.folders.append(Folder(entry.name, entry.path))
            elif not stat.S_ISREG(mode):
                self._special.append(entry.path)
            elif name.endswith(PHOTO_SUFFIXES):
                here.images.append(entry.path)
            elif name.endswith(tuple(UNREAD_SUFFIXES)):
                self._endings[os.path.splitext(name)[1]] += 1


def listed_photos(
    names: Sequence[str], say: Callable[[str], None] = lambda note: None
) -> list[str]:
    """Lists the image files given by files, folders, patterns and tables, in order.

    Anything else is assumed to be an image. `say` receives what was skipped.
    """
    photos: list[str] = []
    for name in names:
        notes: list[str] = []
        if os.path.isdir(name):
            scan = Scan(name)
            found, notes = sorted(scan.root.all_images()), [*scan.notes()]
        elif name.lower().endswith((".csv", ".tsv")):
            found = _photos_of_table(name)
        elif glob.has_magic(name) and not os.path.exists(name):
            found = sorted(p for p in glob.glob(name, recursive=True) if _is_photo(p))
        else:
            found = [name]
        if not found:
            why = "".join(f" {note}" for note in notes)
            raise APINetError(f"There are no photos in {name!r}; check the path.{why}")
        for note in notes:
            say(f"{name}: {note}")
        photos += found
    return photos


def _is_photo(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and name.lower().endswith(PHOTO_SUFFIXES)


def _photos_of_table(path: str) -> list[str]:
    separator = "\t" if path.lower().endswith(".tsv") else ","
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file, delimiter=separator)
            table.fieldnames = [cell(n).lower() for n in table.fieldnames or ()]
            rows = [(cell(row.get("path")), row) for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise APINetError(
            f"The table {path!r} cannot be read ({reason(error)}): save it again as "
            "CSV or TSV in UTF-8."
        ) from error
    if rows and "path" not in rows[0][1]:
        columns = ", ".join(map(str, rows[0][1]))
        raise APINetError(
            f"The table {path!r} has the columns {columns}; name the column of the "
            "photos 'path'."
        )
    folder = os.path.dirname(path)
    return [os.path.join(folder, photo) for photo, _ in rows if photo]


def cell(text: str | None) -> str:
    """Strips spaces, invisible marks and quotes around the text of a table cell.

    A quote at one end belongs to the text if it matches another one inside.

    >>> cell(" 'Gala' "), cell("Malus 'Gala'"), cell("Gala'")
    ('Gala', "Malus 'Gala'", 'Gala')
    """
    text, before = text or "", None
    while text != before:
        before = text
        text = text.strip().strip(_INVISIBLE)
        for mark in "\"'":
            inner = text[1:-1]
            if text.count(mark) == 1:
                text = text.strip(mark)
            elif text[:1] == mark == text[-1:] and (
                mark not in inner or inner[0] == mark == inner[-1]
            ):
                text = inner
    return text
