"""Starting Keras without the banners that backends print on every start."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def start_backend() -> None:
    """Imports Keras, its backend and TensorFlow, which reads the data sets.

    TensorFlow's native code announces processor features and absent GPUs on standard
    error whatever its log level; only those lines, printed while it starts, are
    dropped.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _without_stderr():
        if os.environ.get("KERAS_BACKEND") == "torch":
            import torch  # noqa: F401  torch has to come before TensorFlow
        import keras  # noqa: F401
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Swallows standard error, native code's too; shows it all if something fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except BaseException:
            swallowed.seek(0)
            os.write(kept, swallowed.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
