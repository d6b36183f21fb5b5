"""What a person sees of a training: lines, a bar, TensorBoard, pictures of curves."""

import importlib.util
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_apinet.errors import printable
from keras_apinet.files.io import write_atomically
from keras_apinet.train.devices import peak_memory


class Console:
    """What a person sees: a bar, lines, or nothing."""

    def __init__(self, verbose: str, speaks: bool = True) -> None:
        if verbose == "auto":
            verbose = "bar" if sys.stdout.isatty() else "plain"
        self.bar = verbose == "bar" and speaks
        self.lines = verbose != "quiet" and speaks

    def __call__(self, text: str) -> None:
        """Prints a line, unless it is quiet."""
        if self.lines:
            print(printable(text, keep="\n"), flush=True)

    def progress(self, what: str) -> Callable[[int, int], None] | None:
        """Shows on a terminal how far something is that takes a while."""
        if not self.lines or not sys.stderr.isatty():
            return None

        def show(done: int, total: int) -> None:
            end = "\n" if done == total else ""
            print(f"\r{what}: {done:,}/{total:,} photos", end=end, file=sys.stderr)

        return show


class EpochLine(keras.callbacks.Callback):
    """One line for each epoch: figures, images per second, time left, GPU memory."""

    def __init__(self, epochs: int, steps: int, batch_size: int) -> None:
        super().__init__()
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.started = self.epoch_started = self.training_s = 0.0
        self.steps_done = 0
        self.seen = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clocks."""
        self.epoch_started = time.monotonic()
        self.started = self.started or self.epoch_started
        self.training_s, self.steps_done = 0.0, 0

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Counts the steps, of which a resumed epoch has fewer."""
        self.steps_done = batch + 1

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Training of this epoch is over; what follows is validation."""
        self.training_s = time.monotonic() - self.epoch_started

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the line."""
        logs = logs or {}
        now = time.monotonic()
        took = self.training_s or now - self.epoch_started
        self.seen += self.steps_done
        left = (now - self.started) / max(self.seen, 1)
        left *= (self.epochs - epoch - 1) * self.steps
        figures = [f"loss {logs['loss']:.3f}"]
        if "ranking_loss" in logs:
            figures.append(f"ranking {logs['ranking_loss']:.4f}")
        figures.append(f"accuracy {logs['accuracy']:.1%}")
        if "val_accuracy" in logs:
            figures.append(f"validation {logs['val_accuracy']:.1%}")
        images = self.steps_done * self.batch_size
        figures.append(f"{images / max(took, 1e-9):,.0f} images/s")
        memory = peak_memory()
        if memory is not None:
            figures.append(f"{memory / 2**30:.1f} GiB on the GPU")
        figures.append(f"{clock(left)} left")
        print(f"Epoch {epoch + 1:>3}/{self.epochs}  {'  '.join(figures)}", flush=True)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def tensorboard(folder: Path, writes: bool) -> list[keras.callbacks.Callback]:
    """The callback for TensorBoard, where that is installed."""
    # TensorFlow's summaries are written by the tensorboard package, an extra.
    if not writes or importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]


def draw_curves(rows: Sequence[dict[str, float]], folder: Path) -> bool:
    """Draws loss and accuracy over the epochs into `curves.png` and `curves.svg`.

    Args:
        rows: What `log.csv` says.
        folder: The run folder.

    Returns:
        Whether matplotlib is there to draw them.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=150)
    epochs = [row["epoch"] for row in rows]
    for axis, title, names in (
        (
            figure.add_subplot(1, 2, 1),
            "Loss",
            {
                "loss": "training (pairs)" if "ranking_loss" in rows[0] else "training",
                "ranking_loss": "ranking part",
                "val_loss": "validation (single images)",
            },
        ),
        (
            figure.add_subplot(1, 2, 2),
            "Top-1 accuracy",
            {"accuracy": "training", "val_accuracy": "validation"},
        ),
    ):
        for name, label in names.items():
            if name in rows[0]:
                values = [row[name] for row in rows]
                axis.plot(epochs, values, marker=".", label=label)
        axis.set_title(title, loc="left")
        axis.set_xlabel("epoch")
        axis.set_ylim(bottom=0, top=1 if "accuracy" in title else None)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    for ending in ("png", "svg"):
        picture = io.BytesIO()
        figure.savefig(picture, format=ending)
        write_atomically(folder / f"curves.{ending}", picture.getvalue())
    return True
