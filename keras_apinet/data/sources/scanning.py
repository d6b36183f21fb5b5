"""What lies in a folder and below it: images, and what is passed over."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from keras_apinet.data.photos.files import PHOTO_SUFFIXES, UNREAD_SUFFIXES, unread
from keras_apinet.errors import APINetError

# What operating systems and storage boxes leave in folders, with thumbnails in some.
_JUNK = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "__pycache__"),
    *("system volume information", "@tmp", "#snapshot"),
}


@dataclass
class Folder:
    """A folder with images in it or below: what lies where, before it is understood."""

    name: str
    path: str
    images: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)

    def all_images(self) -> Iterator[str]:
        """The images here and below."""
        waiting = [self]
        while waiting:
            here = waiting.pop()
            yield from here.images
            waiting += reversed(here.folders)


class Scan:
    """A folder read once, and what was passed over in it."""

    def __init__(self, path: str) -> None:
        self._endings: Counter[str] = Counter()
        self._special: list[str] = []
        self._closed: list[str] = []
        self.root = Folder(os.path.basename(os.path.abspath(path)), path)
        top = os.stat(path)
        self._list(self.root, set())
        if self._closed:
            raise APINetError(
                f"The folder {path!r} cannot be read: check who may open it."
            )
        for folder in self.root.folders:
            # A link may lead to what another class holds; a loop is entered once.
            self._walk(folder, {(top.st_dev, top.st_ino)})
        self.root.folders = [f for f in self.root.folders if f.images or f.folders]

    def notes(self) -> Iterator[str]:
        """What was passed over, in sentences."""
        if self._endings:
            yield f"Pictures in formats that are not read are {unread(self._endings)}."
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
