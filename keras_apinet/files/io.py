"""Atomic writes; no other module gives files their final names.

Every file that the package leaves behind is written here: under a unique temporary name
in the same folder, flushed to disk, then renamed, so that readers see either the old or
the new file. Files left by a killed process are removed by the next process that writes
into the folder.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from keras_apinet.errors import APINetError, reason

if sys.platform != "win32":
    import fcntl

ADVICE = "free some space, or give another path"
_PARTIAL = re.compile(r"\.keras-apinet-[0-9a-f]{16}(\.[A-Za-z0-9]{1,8})?")
# Folders in which this process has already removed the leftovers of killed ones.
_swept: set[str] = set()


@contextlib.contextmanager
def unwritable(path: str | Path, advice: str = ADVICE) -> Iterator[None]:
    """Turns a file system error into an `APINetError` that names the file."""
    try:
        yield
    except OSError as error:
        raise APINetError(
            f"{str(path)!r} cannot be written ({reason(error)}); {advice}."
        ) from error


@contextlib.contextmanager
def replacing(
    path: str | Path, *, advice: str = ADVICE, exclusive: bool = False
) -> Iterator[Path]:
    """Provides a temporary file, renamed to `path` when the block ends without error.

    It has the same extension. If it cannot be written, or if the path exists by then
    and is `exclusive`, nothing is left behind, and `path` remains unchanged.
    """
    path = Path(path)
    with unwritable(path, advice), _partial(path.parent, path.suffix) as temporary:
        yield temporary
        _rename(temporary, path, exclusive)


def write_atomically(
    path: str | Path,
    content: str | bytes,
    *,
    advice: str = ADVICE,
    exclusive: bool = False,
) -> None:
    """Writes text (as UTF-8) or bytes; see `replacing`."""
    if isinstance(content, str):
        content = content.encode("utf-8")
    with replacing(path, advice=advice, exclusive=exclusive) as temporary:
        temporary.write_bytes(content)


def exists(path: str | Path) -> APINetError:
    """Creates the error for an output that needs `--force`."""
    return APINetError(
        f"{str(path)!r} exists; give --force (force=True) to replace it, or another "
        "path."
    )


def files_of(folder: Path) -> list[str]:
    """Lists everything in a folder except non-empty folders, as sorted names."""
    found = []
    for place, folders, files in os.walk(folder):
        # Links to folders are not followed; empty folders may be the user's, too.
        links = [name for name in folders if Path(place, name).is_symlink()]
        for name in [*files, *links, *([] if folders or files else [""])]:
            found.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(found)


def digest_of(path: Path) -> str | None:
    """Computes the SHA-256 of a regular file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hand_over(result: Path, path: Path) -> None:
    """Moves a file or folder from a `partial_folder` in the same folder to `path`.

    A folder replaces the one at `path`, which must have been checked before.
    """
    if not result.is_dir():
        _rename(result, path)
        return
    for name in files_of(result):
        _flush(result / name)
    replaced = result.parent / "replaced"
    if path.is_dir():
        os.rename(path, replaced)
    try:
        _rename(result, path)
    except OSError:
        if replaced.exists():
            os.rename(replaced, path)
        raise


def _rename(result: Path, path: Path, exclusive: bool = False) -> None:
    """Flushes, then renames; keeps the mode of a file that is replaced."""
    _flush(result)
    if result.is_file() and path.is_file() and not path.is_symlink():
        os.chmod(result, stat.S_IMODE(path.stat().st_mode))
    if exclusive and os.path.lexists(path):
        raise exists(path)
    try:
        # Unlike a rename, a hard link never replaces a file created in the meantime.
        if exclusive:
            os.link(result, path)
    except FileExistsError as error:
        raise exists(path) from error
    except OSError:  # a file system without hard links
        exclusive = False
    if not exclusive:
        os.replace(result, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    if sys.platform == "win32":
        return  # on systems where folders cannot be opened, and files only for writing
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems have no fsync for folders.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def partial_folder(parent: Path) -> AbstractContextManager[Path]:
    """Provides a folder for unfinished work, which is deleted when the block ends."""
    return _partial(parent, "", folder=True)


@contextlib.contextmanager
def _partial(parent: Path, ending: str, folder: bool = False) -> Iterator[Path]:
    """Creates a file or folder, locked as long as its owner lives."""
    sweep(parent)
    ending = ending if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", ending) else ""
    while True:
        path = parent / f".keras-apinet-{secrets.token_hex(8)}{ending}"
        if folder:
            path.mkdir()  # modes of files and folders are the umask's
            # Windows opens no folders.
            handle = os.open(
                os.devnull if sys.platform == "win32" else path, os.O_RDONLY
            )
        else:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(handle)
        if path.exists():  # else it was removed before it was locked
            break
        os.close(handle)
    try:
        yield path
    finally:
        if folder:
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Locks a file until it is closed or its process ends for any reason."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process holds it, or the file system has no locks
        return False
    return True


def sweep(folder: Path, again: bool = False) -> None:
    """Removes unfinished files of killed processes from a folder, once per process."""
    place = os.path.abspath(folder)
    if place in _swept and not again:
        return
    _swept.add(place)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [e.path for e in entries if _PARTIAL.fullmatch(e.name)]
        for path in left:
            if os.path.islink(path):
                continue
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if not _lock(handle):
                    continue
                if os.path.isdir(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)
            finally:
                os.close(handle)


def is_partial(name: str) -> bool:
    """Whether a name is that of an unfinished file of this package."""
    return _PARTIAL.fullmatch(name) is not None
