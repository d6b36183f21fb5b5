"""What has to be right before a command runs: its streams, and Keras."""

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from keras_apinet.errors import APINetError, did_you_mean, reason

BACKENDS = ("tensorflow", "jax", "torch")


def open_streams() -> None:
    """Makes standard output and standard error take whatever is written to them.

    Streams that the caller has closed are connected to the null device; otherwise the
    next file that is opened would take their place. Characters that the terminal's
    encoding lacks become escapes.
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
    """Discards output that can no longer be written: Python flushes when it exits."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def start_backend() -> None:
    """Imports Keras, its backend and TensorFlow, which reads the data sets.

    TensorFlow's native code announces processor features and absent GPUs on standard
    error whatever its log level; only those lines, printed while it starts, are
    dropped.

    Raises:
        APINetError: For a backend that does not exist, is not installed, or does not
            start.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    name = os.environ.get("KERAS_BACKEND")
    if name:
        check_backend(name, f"KERAS_BACKEND={name!r}")
    try:
        with _starting(name), _without_stderr():
            if name == "torch":
                import torch  # noqa: F401  torch has to come before TensorFlow
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
            # Without KERAS_BACKEND, Keras's own settings file names one.
            chosen = keras.backend.backend()
    except Exception as error:
        raise APINetError(
            f"Keras does not start on the backend {name or 'of its settings file'!r} "
            f"({type(error).__name__}: {reason(error)}); reinstall it, or set "
            "KERAS_BACKEND to another."
        ) from error
    check_backend(chosen, f"The backend {chosen!r} of Keras's settings file")


def check_backend(name: str, said: str) -> None:
    """Checks that a backend exists and is installed.

    Args:
        name: Its name.
        said: Who names it, for the error.

    Raises:
        APINetError: If it does not exist or is not installed.
    """
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


@contextlib.contextmanager
def _starting(name: str | None) -> Iterator[None]:
    """Says on a terminal what the seconds are for, and takes it back afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    titles = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
    # TensorFlow reads the photos on every backend.
    names = dict.fromkeys([titles.get(name or "", "TensorFlow"), "TensorFlow"])
    print(f"Starting {' and '.join(names)} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Swallows standard error, native code's too; an exception tells what failed."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
