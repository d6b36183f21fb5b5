"""Conversion jobs, run in this process or in a child process with TensorFlow.

`python -m keras_apinet.export.child FOLDER ...` runs the jobs in some folders; see
`conversion`. The error of a job is written to its `error.json`. The child exits when
the process that started it does.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_apinet.errors import APINetError, reason
from keras_apinet.export.conversion import MODEL, PHOTOS, RESULT, convert
from keras_apinet.files.io import ADVICE

ERROR = "error.json"


def convert_in_child(folders: Sequence[Path]) -> None:
    """Runs the jobs in some folders in a single child process with TensorFlow."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # The child finds the same modules as this process.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "keras_apinet.export.child",
            *map(str, folders),
        ],
        env=environment,
        stdin=subprocess.PIPE,  # its end tells the child that this process has exited
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        try:
            assert child.stdout is not None
            said = child.stdout.read()
            child.wait()
        finally:
            child.kill()  # whatever stops this process also stops the child
    if child.returncode:
        lines = said.strip().splitlines() or ["no output"]
        raise APINetError(
            f"The TensorFlow conversion process exited with code {child.returncode} "
            f"({lines[-1][:300]}); check that there is enough memory and that "
            "TensorFlow is installed."
        )


def converted(folder: Path) -> Path:
    """Returns the output of the job in a folder, or raises its error."""
    if (folder / ERROR).is_file():
        raise APINetError(json.loads((folder / ERROR).read_text("utf-8")))
    return folder / RESULT


def attempt(folder: Path) -> None:
    """Runs the job in a folder and records its error, if any."""
    try:
        with _temporary_files_in(folder):
            convert(folder)
    except APINetError as error:
        why = str(error)
    except OSError as error:
        why = f"The converted model cannot be written ({reason(error)}); {ADVICE}."
    except Exception as error:
        why = (
            f"The model cannot be converted ({type(error).__name__}: "
            f"{str(error).strip()[:300]}); if it has custom layers, put them into an "
            "importable module, or run with KERAS_BACKEND=tensorflow."
        )
    else:
        return
    for path in (MODEL, PHOTOS):
        (folder / path).unlink(missing_ok=True)  # frees a full disk for the error
    (folder / ERROR).write_text(json.dumps(why), "utf-8")


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Keeps files that killed converters leave behind in a folder that is removed."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _end_with_parent() -> None:
    """Ends this process when the one that started it has exited, for any reason."""
    if sys.platform == "linux":
        import ctypes

        # The kernel does this even while native code blocks the interpreter.
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    import keras_apinet.model.apinet  # noqa: F401  (registers the package's layers)

    for job_folder in sys.argv[1:]:
        attempt(Path(job_folder))
