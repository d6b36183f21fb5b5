"""The rule for which existing outputs commands may replace.

Nothing is replaced without `--force`, and `--force` only replaces files written by this
package. They are recognized by content: every file contains a mark of the package, and
every exported folder a manifest with the digests of its files.
"""

import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from keras_apinet.errors import APINetError
from keras_apinet.files.io import (
    digest_of,
    exists,
    files_of,
    unwritable,
    write_atomically,
)

GENERATOR = "keras-apinet"
# In Markdown, and in the folders that are exported.
MARKDOWN_MARK = f"<!-- generator: {GENERATOR} -->"
MANIFEST = "keras-apinet.json"
# Kind of file -> how it begins, and what only this package puts near an end of it.
_KINDS = {
    "page": (b"<!doctype html>", b'<meta name="generator" content="keras-apinet">'),
    "PNG picture": (b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0keras-apinet"),
    "JPEG picture": (b"\xff\xd8\xff", b"\xff\xfe\x00\x0ekeras-apinet"),
    "SVG picture": (b"<?xml", b"<dc:title>keras-apinet</dc:title>"),
    "PDF picture": (b"%PDF", b"/Creator (keras-apinet)"),
    "ONNX model": (b"\x08", b"\x12\x0ckeras-apinet"),
    "Markdown file": (b"", MARKDOWN_MARK.encode()),
    "table of features": (b"photo,feature_0", b"photo,feature_0"),
    "NumPy file of features": (b"PK", b"keras-apinet.npy"),
}
_NAMES = ("utf-8", "surrogateescape")
_ENDS = 1 << 16  # bytes at either end of a file in which its mark lies


def write_output(path: str | Path, content: str | bytes, force: bool) -> None:
    """Writes the output of a command, following the rule of this module.

    The content must contain the mark of its kind. `force` replaces a file of the same
    kind that this package wrote.
    """
    # File names need not be UTF-8.
    data = content if isinstance(content, bytes) else content.encode(*_NAMES)
    kind = _kind(data)
    if kind is None:
        raise TypeError("The content bears no mark of this package.")
    check_output(path, kind, force)
    # Without force, a file created in the meantime is not replaced either.
    write_atomically(path, data, exclusive=not force)


def check_output(path: str | Path, kind: str, force: bool) -> None:
    """Checks that an output may be written, before any work is done.

    Its kind is a key of `_KINDS` or `"TFLite model"`. Files of this package are
    replaced only with `force`, and anything else never.
    """
    path = Path(path)
    with unwritable(path):
        found = path.lstat() if os.path.lexists(path) else None
    if found is None:
        return  # its folder may be missing, which is reported when writing
    if not stat.S_ISREG(found.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
        what = kinds.get(stat.S_IFMT(found.st_mode), "not a regular file")
        raise APINetError(
            f"{str(path)!r} is {what}, which is never replaced; give another path."
        )
    with unwritable(path):
        ours = written_as(path) == kind
    if not ours:
        raise APINetError(
            f"{str(path)!r} exists and was not written by this package (as {kind}), so "
            "not even --force replaces it; give another path."
        )
    if not found.st_mode & 0o222:
        raise APINetError(f"{str(path)!r} is read-only; give another path.")
    if not force:
        raise exists(path)


_PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_DRAWINGS = {".svg": "SVG", ".pdf": "PDF"}


def picture_kind(path: str | Path, drawn: bool = False) -> str:
    """Returns the kind of picture or drawing for a path's extension."""
    kinds = {**_PICTURES, **(_DRAWINGS if drawn else {})}
    ending = Path(path).suffix.lower()
    if ending not in kinds:
        raise APINetError(
            f"{str(path)!r} must end in {'.html or ' * drawn}one of {', '.join(kinds)}."
        )
    return f"{kinds[ending]} picture"


def picture_bytes(picture: Any, path: str | Path, **options: Any) -> bytes:
    """Encodes a picture in the format of a path's extension, with the package's mark.

    The picture is a `PIL.Image.Image`, or a Matplotlib figure with `savefig` options.
    """
    from PIL.PngImagePlugin import PngInfo

    buffer = io.BytesIO()
    form = picture_kind(path, drawn=True).split()[0]
    marks: dict[str, Any] = {"comment": GENERATOR.encode()}
    if form == "PNG":
        marks = {"pnginfo": PngInfo()}
        marks["pnginfo"].add_text("Software", GENERATOR)
    if not hasattr(picture, "savefig"):
        picture.save(buffer, form, **marks)
    elif form in ("PNG", "JPEG"):
        picture.savefig(buffer, format=form.lower(), pil_kwargs=marks, **options)
    else:
        metadata = {"Creator": GENERATOR}
        picture.savefig(buffer, format=form.lower(), metadata=metadata, **options)
    return buffer.getvalue()


def written_as(path: Path) -> str | None:
    """Returns the kind of a file that this package wrote, `None` for any other."""
    with path.open("rb") as file:
        head = file.read(_ENDS)
        file.seek(max(0, path.stat().st_size - _ENDS))
        return _kind(head, file.read(_ENDS))


def _kind(head: bytes, tail: bytes = b"") -> str | None:
    ends = head[:_ENDS] + (tail or head[-_ENDS:])
    if head[4:8] == b"TFL3" and b"classifier.json" in ends:
        return "TFLite model"
    for kind, (start, mark) in _KINDS.items():
        if head.startswith(start) and mark in ends:
            return kind
    return None


def write_manifest(folder: Path) -> None:
    """Records the content of an exported folder, so that `--force` may replace it."""
    files = {name: digest_of(folder / name) for name in files_of(folder)}
    text = json.dumps({"generator": GENERATOR, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", "utf-8")


def strangers(folder: Path) -> list[str] | None:
    """Lists files in an exported folder that were changed or not written by us.

    Returns `None` if the folder has no manifest of this package.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        if content["generator"] != GENERATOR:
            return None
        known = dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return [
        name
        for name in files_of(folder)
        if name != MANIFEST
        and (
            name not in known
            or (folder / name).is_symlink()
            or known[name] != digest_of(folder / name)
        )
    ]
