"""Checkpoints: the complete state needed to resume training exactly.

Each checkpoint is one `.npz` file in the run's `checkpoints/`, with all variables of
the model (weights, statistics, random state, metrics) and of the optimizer (moments,
averages, step), and the progress of the run. Files are written atomically and sealed
with a digest, which is verified before anything is read; nothing is unpickled.
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
    """Progress of a training run.

    Attributes:
        epoch: Number of completed epochs.
        step: Number of completed steps in the next epoch.
        best: Validation accuracy and negative loss of the best model; `None` before
            the first validation.
        best_epoch: Epoch of the best model; 0 is the head phase.
        rows: Rows of `log.csv`: one dictionary per completed epoch.
        ended: Whether training is finished.
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
        """Parses JSON; raises `ValueError` or `TypeError` if it is invalid."""
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
            raise ValueError("its progress is invalid")
        return made


# A loaded checkpoint: its progress and the values of all variables.
Stored = tuple[Progress, list[NDArray[Any]]]


def variables_of(model: Any) -> list[Any]:
    """All variables of a compiled model and its optimizer, in a fixed order."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(v): v for v in found}.values())


def values_of(model: Any) -> list[NDArray[Any]]:
    """The current values of those variables."""
    return [
        _plain(np.array(keras.ops.convert_to_numpy(v))) for v in variables_of(model)
    ]


def finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(_plain(np.asarray(values))).all())


def save(
    folder: Path, values: list[NDArray[Any]], progress: Progress, keep: int
) -> None:
    """Writes a checkpoint of a compiled model's `values_of`; keeps the `keep` newest.

    If writing fails, earlier checkpoints stay intact.
    """
    described = np.frombuffer(json.dumps(asdict(progress)).encode(), np.uint8)
    path = folder / FOLDER / f"{progress.epoch:05d}-{progress.step:07d}.npz"
    advice = f"earlier ones are intact: free some space, then use --resume {folder}"
    with unwritable(path, advice):
        path.parent.mkdir(exist_ok=True)
        with replacing(path, advice=advice) as temporary:
            np.savez(temporary, described, *values)
            seal(temporary)
        # Later ones were unreadable, or are from a longer schedule.
        found = everything(folder)
        done = found.index(path) + 1
        for old in [*found[: max(0, done - keep)], *found[done:]]:
            old.unlink(missing_ok=True)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    # NumPy has no bfloat16; float32 represents it exactly.
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def everything(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = (folder / FOLDER).glob("*.npz")
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def readable(
    folder: Path, say: Callable[[str], None] = lambda text: None
) -> Iterator[Stored]:
    """Yields the intact checkpoints, newest first.

    `say` is called for each damaged one that is skipped, with the reason.

    Raises:
        APINetError: If there are checkpoints but none is intact.
    """
    paths = everything(folder)
    whole, reason = 0, ""
    for path in reversed(paths):
        try:
            yield read(path)
            whole += 1
        except _DAMAGES as error:
            reason = str(error) or type(error).__name__
            say(f"Skipping the checkpoint {path.name}, which is damaged ({reason}).")
    if paths and not whole:
        raise APINetError(
            f"None of the {len(paths)} checkpoints in {str(folder / FOLDER)!r} can be "
            f"read ({reason}); start a new run, or remove them all to restart this "
            "one."
        )


_DAMAGES = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, OverflowError, MemoryError, RecursionError, NotImplementedError),
    zipfile.BadZipFile,
)


def read(path: Path) -> Stored:
    """The progress and the arrays of one checkpoint.

    Raises:
        Exception: One of `_DAMAGES`, if the file is not exactly as written.
    """
    if not path.is_file():
        raise ValueError("it is not a file")
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
        # Training would continue with NaN.
        raise ValueError("training diverged: it contains NaN or infinite values")
    return Progress.of(json.loads(described.tobytes())), arrays


def _array(content: bytes) -> NDArray[Any]:
    """The array in a `.npy` file, whose size must match its header exactly."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("its arrays have another format version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=0) < 0:
        raise ValueError(f"it contains values of type {dtype}")
    if math.prod(shape) * dtype.itemsize != len(content) - start:
        raise ValueError("the size of an array does not match its header")
    values = np.frombuffer(content, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


def restore(arrays: list[NDArray[Any]], model: Any) -> None:
    """Loads a checkpoint's arrays into a compiled model with a built optimizer."""
    variables = variables_of(model)
    shapes = [(tuple(v.shape), _stored_type(v.dtype)) for v in variables]
    stored = [(array.shape, array.dtype.name) for array in arrays]
    if shapes != stored:
        differing = sum(a != b for a, b in zip(shapes, stored, strict=False))
        raise APINetError(
            f"The checkpoint has {len(stored)} variables and the model {len(shapes)}, "
            f"of which {differing} differ in shape or type: the recipe or the code has "
            "changed; resume with those that the run started with."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _stored_type(dtype: str) -> str:
    """The dtype in which a variable is stored; see `_plain`."""
    return "float32" if dtype.startswith(("bfloat", "float8")) else str(dtype)


def restore_newest(
    model: Any, stored: Stored, others: Iterator[Stored], say: Callable[[str], None]
) -> Progress:
    """Restores the newest checkpoint that fits the model; returns its progress."""
    while True:
        try:
            restore(stored[1], model)
            return stored[0]
        except APINetError as error:
            before = next(others, None)
            if before is None:
                raise
            say(f"{error} Trying the previous checkpoint.")
            stored = before
