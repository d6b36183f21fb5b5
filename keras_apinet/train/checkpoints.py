"""Checkpoints: everything that a training needs to go on as if nothing had happened.

One `.npz` file each, in the run's `checkpoints/`: all variables of the model (weights,
statistics, random state, metrics) and of the optimizer (moments, averages, step), and
how far the run had come. Written whole or not at all, and sealed with a digest that is
verified before anything is read; nothing is unpickled.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.files.io import replacing, unwritable
from keras_apinet.files.sealing import check_members, check_seal, seal

FOLDER = "checkpoints"
_NAME = re.compile(r"\d{5,}-\d{7,}\.npz")


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        epoch: Epochs that are complete.
        step: Steps of the next epoch that are done.
        best: Validation accuracy and negative loss of the best model; `None` before
            the first validation.
        best_epoch: After which epoch that was; 0 is the head phase.
        rows: What `log.csv` says: one dictionary for each complete epoch.
        ended: Whether nothing is left to do.
        failed: Unreadable images seen so far, with the reason.
    """

    epoch: int = 0
    step: int = 0
    best: tuple[float, float] | None = None
    best_epoch: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    ended: bool = False
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any) -> "Progress":
        """Progress from JSON; what is none is a `ValueError` or `TypeError`."""
        made = cls(**content)
        if made.best is not None:
            made.best = (made.best[0], made.best[1])
        counts = (made.epoch, made.step, made.best_epoch)
        numbers = [v for row in made.rows for v in row.values()] + [*(made.best or ())]
        if not (
            all(type(n) is int and n >= 0 for n in counts)
            and all(isinstance(n, (int, float)) for n in numbers)
            and all("epoch" in row for row in made.rows)
            and type(made.ended) is bool
            and all(type(v) is str for v in made.failed.values())
        ):
            raise ValueError("its progress cannot be")
        return made


# A checkpoint that was read: how far it is, and the values of all variables.
Stored = tuple[Progress, list[NDArray[Any]]]


def variables_of(model: Any) -> list[Any]:
    """All variables of a compiled model and its optimizer, always in one order."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(v): v for v in found}.values())


def values_of(model: Any) -> list[NDArray[Any]]:
    """What those variables hold now."""
    return [
        _plain(np.array(keras.ops.convert_to_numpy(v))) for v in variables_of(model)
    ]


def finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(_plain(np.asarray(values))).all())


def save(
    folder: Path, values: list[NDArray[Any]], progress: Progress, keep: int
) -> None:
    """Writes a checkpoint of a compiled model's `values_of`, and keeps `keep` of them.

    If it cannot be written, the ones before are whole.
    """
    described = np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8)
    path = folder / FOLDER / f"{progress.epoch:05d}-{progress.step:07d}.npz"
    advice = f"the ones before are whole: make room, then go on with --resume {folder}"
    with unwritable(path, advice):
        path.parent.mkdir(exist_ok=True)
        with replacing(path, advice=advice) as temporary:
            np.savez(temporary, described, *values)
            seal(temporary)
        # Later ones could not be read, or are of a longer plan.
        found = everything(folder)
        done = found.index(path) + 1
        for old in [*found[: max(0, done - keep)], *found[done:]]:
            old.unlink(missing_ok=True)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    # NumPy has no bfloat16 of its own; float32 holds it exactly.
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def everything(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = (folder / FOLDER).glob("*.npz")
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def readable(
    folder: Path, say: Callable[[str], None] = lambda text: None
) -> Iterator[Stored]:
    """The checkpoints that are whole, newest first.

    `say` is told which ones are passed over, and why; some and none whole is an error.
    """
    paths = everything(folder)
    whole, reason = 0, ""
    for path in reversed(paths):
        try:
            yield read(path)
            whole += 1
        except _DAMAGES as error:
            reason = str(error) or type(error).__name__
            say(f"The checkpoint {path.name} is damaged ({reason}) and passed over.")
    if paths and not whole:
        raise APINetError(
            f"None of the {len(paths)} checkpoints in {str(folder / FOLDER)!r} can be "
            f"read ({reason}); start a new run, or remove them all to train this one "
            "from its beginning."
        )


_DAMAGES = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, OverflowError, MemoryError, RecursionError, NotImplementedError),
    zipfile.BadZipFile,
)


def read(path: Path) -> Stored:
    """The progress and the arrays of one checkpoint.

    Raises:
        Exception: One of `_DAMAGES`, if it is not exactly as it was written.
    """
    if not path.is_file():
        raise ValueError("it is no file")
    content = path.read_bytes()
    if not check_seal(io.BytesIO(content)):
        raise ValueError("it has no digest")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        check_members(archive, len(content))
        members = archive.namelist()
        if members != [f"arr_{i}.npy" for i in range(len(members))]:
            raise ValueError("its arrays are not in order")
        described, *arrays = (_array(archive.read(name)) for name in members)
    if not all(map(finite, arrays)):
        # What is trained from here stays NaN.
        raise ValueError("the training diverged: it holds NaN or infinite values")
    return Progress.of(json.loads(described.tobytes())), arrays


def _array(content: bytes) -> NDArray[Any]:
    """The array in a `.npy` file, of which exactly as much is there as it says."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its arrays are of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=0) < 0:
        raise ValueError(f"it holds values of type {dtype}")
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError("an array is not as large as it says")
    values = np.frombuffer(content, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


def restore(arrays: list[NDArray[Any]], model: Any) -> None:
    """Puts the arrays of a checkpoint into a compiled model with a built optimizer."""
    variables = variables_of(model)
    shapes = [(tuple(v.shape), _stored_type(v.dtype)) for v in variables]
    stored = [(array.shape, array.dtype.name) for array in arrays]
    if shapes != stored:
        differing = sum(a != b for a, b in zip(shapes, stored, strict=False))
        raise APINetError(
            f"The checkpoint has {len(stored)} variables and the model {len(shapes)}, "
            f"of which {differing} differ in shape or type: the recipe or the code has "
            "changed; go on with the ones that the run began with."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _stored_type(dtype: str) -> str:
    """The type in which the values of a variable are stored, see `_plain`."""
    return "float32" if dtype.startswith(("bfloat", "float8")) else str(dtype)


def restore_newest(
    model: Any, stored: Stored, others: Iterator[Stored], say: Callable[[str], None]
) -> Progress:
    """Puts the newest checkpoint that fits into the model; gives its progress."""
    while True:
        try:
            restore(stored[1], model)
            return stored[0]
        except APINetError as error:
            before = next(others, None)
            if before is None:
                raise
            say(f"{error} Looking at the one before.")
            stored = before
