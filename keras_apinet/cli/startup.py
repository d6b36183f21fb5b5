"""Setup before a command runs: standard streams and the Keras backend."""

import contextlib
import faulthandler
import importlib.util
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Set

from keras_apinet.errors import APINetError, did_you_mean, reason

_UNUSED: Set[object] = {"cv2", "jax", "matplotlib", "sklearn"}
_MOST_MESSAGES = 1 << 24  # bytes
BACKENDS = ("tensorflow", "jax", "torch")


def open_streams() -> None:
    """Makes writing to standard output and standard error safe.

    Connects closed streams to the null device, because the next file opened would
    otherwise take their file descriptors. Characters that the terminal's encoding
    lacks are escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def close_output() -> None:
    """Discards unwritable output, which Python would try to flush at exit."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def start_backend() -> None:
    """Imports Keras, its backend, and TensorFlow, which loads the data."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name = os.environ.get("KERAS_BACKEND")
    if name:
        check_backend(name, f"KERAS_BACKEND={name!r}")
    try:
        with _starting(name), _unseen(_UNUSED - {name or _settings_backend()}):
            if name == "torch":
                import torch  # noqa: F401  must precede TensorFlow
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            # Without KERAS_BACKEND, keras.json names the backend.
            chosen = keras.backend.backend()
    except Exception as error:
        raise APINetError(
            f"Keras cannot start the backend {name or 'of its settings file'!r} "
            f"({type(error).__name__}: {reason(error)}); reinstall it, or set "
            "KERAS_BACKEND to another."
        ) from error
    check_backend(chosen, f"The backend {chosen!r} of Keras's settings file")


def check_backend(name: str, said: str) -> None:
    """Checks that a backend exists and is installed; `said` starts the error."""
    if name not in BACKENDS:
        raise APINetError(
            f"{said} is not one of {', '.join(BACKENDS)}" + did_you_mean(name, BACKENDS)
        )
    try:
        found = name in sys.modules or importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if not found:
        raise APINetError(
            f"{said} is not installed; pip install 'keras-apinet[{name}]', or set "
            "KERAS_BACKEND to another."
        )


def _settings_backend() -> object:
    """The backend named in keras.json, not validated here; Keras does that."""
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    try:
        with open(os.path.join(home, "keras.json"), encoding="utf-8") as file:
            return json.load(file)["backend"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


@contextlib.contextmanager
def _unseen(packages: Set[object]) -> Iterator[None]:
    """Hides optional packages from Keras and TensorFlow during their import.

    They take a third of the startup time and no command uses them.
    """
    hidden = [name for name in map(str, packages) if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were absent
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _starting(name: str | None) -> Iterator[None]:
    """Shows a startup message on a terminal and erases it afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    titles = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    # TensorFlow loads the photos on every backend.
    names = dict.fromkeys([titles.get(name or "", "TensorFlow"), "TensorFlow"])
    print(f"Starting {' and '.join(names)} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def messages_aside() -> None:
    """Redirects what native code writes to standard error to a temporary file.

    TensorFlow, XLA, LiteRT and the converters report CPU features, missing GPUs and
    delegates there, whatever the log level. Python's own standard error stays on the
    terminal; `keep_messages` saves the rest.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(
        terminal, "w", 1, sys.stderr.encoding, errors="backslashreplace"
    )
    # Otherwise an abort in native code would leave no message.
    faulthandler.enable(sys.stderr)
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)


def keep_messages(folder: str | os.PathLike[str]) -> None:
    """Appends the output redirected by `messages_aside` to the run's `messages.log`."""
    with contextlib.suppress(OSError):
        if sys.stderr.fileno() == 2:
            return  # nothing was redirected
        size = os.lseek(2, 0, os.SEEK_END)
        if size and os.path.isdir(folder):
            os.lseek(2, 0, os.SEEK_SET)
            with open(os.path.join(folder, "messages.log"), "ab") as log:
                log.write(os.read(2, min(size, _MOST_MESSAGES)))
            os.lseek(2, 0, os.SEEK_END)
