"""Archives with an embedded digest, and checks against archives that unpack too large.

Checkpoints and models are zip archives. Those written in training end in a comment with
the SHA-256 of everything before it, so that a single changed bit is detected.
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
    # In a folder, because Keras may need a temporary file next to it.
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
    """Whether an archive has a seal; raises `ValueError` if the seal does not match."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _SEAL_SIZE))
    end = file.read()
    if not _SEAL.fullmatch(end):
        return False
    if end != _digest(file):
        raise ValueError("its digest does not match")
    return True


def _digest(file: IO[bytes]) -> bytes:
    """Computes the seal for an archive that has room for one."""
    left = file.seek(0, os.SEEK_END) - _SEAL_SIZE
    file.seek(0)
    digest = hashlib.sha256()
    while part := file.read(min(left, 1 << 20)):
        digest.update(part)
        left -= len(part)
    return b"sha256:" + digest.hexdigest().encode()


def check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Rejects an archive whose headers say that it is not stored uncompressed.

    Neither Keras nor this package compresses, so a compressed or encrypted archive came
    from elsewhere and could unpack to any size. `size` is that of its file, in bytes.

    Raises:
        ValueError: If a member is compressed, encrypted or duplicated.
    """
    members = archive.infolist()
    declared = sum(member.file_size for member in members)
    if declared > size:
        raise ValueError(
            f"it would unpack to {declared:,} bytes, but its file has {size:,}"
        )
    for member in members:
        if member.flag_bits & 0x1 or member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its part {member.filename!r} is compressed or encrypted")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two of its parts have the same name")


def check_model(path: Path) -> None:
    """Checks a `.keras` file before Keras unpacks it.

    Raises:
        ValueError: If it is damaged, of another kind, or would unpack to more than the
            size of its file.
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
            # Seeking backwards in a part of an archive rereads it from the start.
            member = io.BytesIO(archive.read(_WEIGHTS))
            with h5py.File(member, "r") as weights:
                declared = _declared(weights)
    if declared > size:
        raise ValueError(
            f"its weights would unpack to {declared:,} bytes, but its file has {size:,}"
        )


def _declared(weights: Any) -> int:
    """Returns the total bytes of all arrays in an HDF5 file."""
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
