"""What happens after every epoch: models kept, one line of progress."""

import math
import time
from typing import Any

import keras

from keras_apinet.errors import APINetError
from keras_apinet.runs import Run, save_atomically


class KeepModels(keras.callbacks.Callback):
    """Keeps `last.keras` and, by validation accuracy, `best.keras`.

    Equal accuracies are settled by the lower validation loss. Without a validation
    split the best model is the last one.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.best: tuple[float, float] | None = None
        self.best_epoch = 0
        self.epochs_seen = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves after an epoch."""
        logs = logs or {}
        if not math.isfinite(logs.get("loss", 0.0)):
            return  # never over a good model
        self.epochs_seen += 1
        score = (logs.get("val_accuracy", 0.0), -logs.get("val_loss", 0.0))
        save_atomically(self.model, self.run.folder / "last.keras")
        if self.best is None or score > self.best or "val_accuracy" not in logs:
            self.best, self.best_epoch = score, self.epochs_seen
            save_atomically(self.model, self.run.folder / "best.keras")


class StopOnNaN(keras.callbacks.Callback):
    """Ends a training whose loss is no number; what was saved before stays.

    `check()` after `fit` raises the error, so that every callback ends in order first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Looks at the loss of a step."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss) and not self.problem:
            self.model.stop_training = True
            self.problem = (
                f"The loss became {loss} at step {batch + 1} of an epoch: lower "
                "--learning-rate, or check that every label lies within the classes; "
                "the models saved before are kept."
            )

    def check(self) -> None:
        """Raises an `APINetError` if the loss became no number."""
        if self.problem:
            raise APINetError(self.problem)


class EpochLine(keras.callbacks.Callback):
    """One line for each epoch: figures, images per second, time left."""

    def __init__(self, title: str, epochs: int, images_per_epoch: int) -> None:
        super().__init__()
        self.title = title
        self.epochs = epochs
        self.images_per_epoch = images_per_epoch
        self.started = self.epoch_started = 0.0
        self.training_s = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the epoch's clock."""
        self.epoch_started = time.monotonic()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Training of this epoch is over; what follows is validation."""
        self.training_s = time.monotonic() - self.epoch_started

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the line."""
        logs = logs or {}
        now = time.monotonic()
        took = self.training_s or now - self.epoch_started
        left = (now - self.started) / (epoch + 1) * (self.epochs - epoch - 1)
        figures = [f"loss {logs['loss']:.3f}"]
        if "ranking_loss" in logs:
            figures.append(f"ranking {logs['ranking_loss']:.4f}")
        figures.append(f"accuracy {logs['accuracy']:.1%}")
        if "val_accuracy" in logs:
            figures.append(f"validation {logs['val_accuracy']:.1%}")
        print(
            f"{self.title} {epoch + 1:>3}/{self.epochs}  {'  '.join(figures)}  "
            f"{self.images_per_epoch / max(took, 1e-9):,.0f} images/s  "
            f"{clock(left)} left",
            flush=True,
        )


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
