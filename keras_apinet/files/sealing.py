"""Archives that carry their own digest, and archives that would unpack to too much.

Checkpoints and models are zip archives. Those that a training writes end in a comment
with the SHA-256 of all that is before it, so that a file of which one bit is another is
never taken for the one that was written.
"""

import hashlib
import io
import os
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from keras_apinet.files.io import ADVICE, hand_over, partial_folder, unwritable

_SEAL = re.compile(rb"sha256:[0-9a-f]{64}")
_SEAL_SIZE = 71
_WEIGHTS = "model.weights.h5"


def save_atomically(model: Any, path: str | Path, advice: str = ADVICE) -> None:
    """Saves a Keras model with a seal; see `replacing`."""
    path = Path(path)
    # In a folder, as Keras may need a temporary file beside it.
    with unwritable(path, advice), partial_folder(path.parent) as folder:
        model.save(folder / "model.keras")
        seal(folder / "model.keras")
        hand_over(folder / "model.keras", path)


def seal(path: Path) -> None:
    """Writes the digest of a zip archive into its comment, at the very end."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"\0" * _SEAL_SIZE
    with path.open("rb+") as file:
        digest = _digest(file)
        file.seek(-_SEAL_SIZE, os.SEEK_END)
        file.write(digest)


def check_seal(file: IO[bytes]) -> bool:
    """Whether an archive carries a seal; that of another content is a `ValueError`."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _SEAL_SIZE))
    end = file.read()
    if not _SEAL.fullmatch(end):
        return False
    if end != _digest(file):
        raise ValueError("its digest is another")
    return True


def _digest(file: IO[bytes]) -> bytes:
    """What the seal of an archive that has room for one should be."""
    left = file.seek(0, os.SEEK_END) - _SEAL_SIZE
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(min(left, 1 << 20)):
        digest.update(part)
        left -= len(part)
    return b"sha256:" + digest.hexdigest().encode()


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses, by its headers, an archive that is not stored plainly.

    Neither Keras nor this package compresses: what is compressed or encrypted came from
    elsewhere, and could unpack to anything. `size` is that of its file, in bytes.

    Raises:
        ValueError: If a member is compressed, encrypted or there twice.
    """
    members = archive.infolist()
    declared = sum(member.file_size for member in members)
    if declared > size:
        raise ValueError(
            f"it would unpack to {declared:,} bytes, and its file has {size:,}"
        )
    for member in members:
        if member.flag_bits & 0x1 or member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its part {member.filename!r} is compressed or encrypted")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two of its parts have one name")


def check_model(path: Path) -> None:
    """Checks a `.keras` file before Keras unpacks it.

    Raises:
        ValueError: If it is damaged, of another kind, or would unpack to more than it
            holds.
        zipfile.BadZipFile: If it is not an archive, or a part is damaged.
        OSError: If it, or the weights in it, cannot be read.
    """
    import h5py

    with path.open("rb") as file:
        sealed = check_seal(file)
        size = path.stat().st_size
        with zipfile.ZipFile(file) as archive:
            check_members(archive, size)
            if not {"config.json", _WEIGHTS} <= set(archive.namelist()):
                raise ValueError("it is not a model of this version of Keras")
            if not sealed and (damaged := archive.testzip()):
                raise ValueError(f"its part {damaged!r} is damaged")
            # A part of an archive starts anew wherever it is read backwards.
            member = io.BytesIO(archive.read(_WEIGHTS))
            with h5py.File(member, "r") as weights:
                declared = _declared(weights)
    if declared > size:
        raise ValueError(
            f"its weights would unpack to {declared:,} bytes, and its file has {size:,}"
        )


def _declared(weights: Any) -> int:
    """Bytes of all arrays in an HDF5 file."""
    import h5py

    total, seen, groups = 0, set(), [weights]
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} in its weights is a link")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif item.shape is not None:
                total += item.size * item.dtype.itemsize
    return total
