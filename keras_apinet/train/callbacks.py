"""Callbacks that save models and checkpoints, and handle stop signals."""

import contextlib
import csv
import io
import math
import signal
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import keras

from keras_apinet.data import ReadingReport
from keras_apinet.errors import APINetError
from keras_apinet.files.io import write_atomically
from keras_apinet.files.sealing import save_atomically
from keras_apinet.runs import Run
from keras_apinet.train import checkpoints
from keras_apinet.train.recipe import Recipe
from keras_apinet.types import Logs

# Steps between checks of the loss; reading it waits for the device.
_LOOK_EVERY = 20


class TrainingStopped(KeyboardInterrupt):
    """Raised when the user stops training, after a checkpoint was written."""


class RunCheckpoint(keras.callbacks.Callback):
    """Saves the best and the last model, the log, and checkpoints to resume from.

    The best model has the highest validation accuracy; ties are broken by the lower
    validation loss. Without a validation split, the best model is the last one. If the
    loss, the validation loss or the weights become NaN or infinite, training ends
    before anything of that epoch is saved.

    Args:
        run: Where to save.
        recipe: How often to save, how many checkpoints to keep, and the patience.
        progress: Progress of the run so far.
        writes: Whether this process writes; with several, only the first does.
    """

    def __init__(
        self,
        run: Run,
        recipe: Recipe,
        progress: checkpoints.Progress,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.run, self.recipe, self.writes = run, recipe, writes
        self.progress = progress
        self.reports: list[ReadingReport] = []
        self.head_rows: list[dict[str, float]] = []
        self.values: list[Any] = []
        self.partial: list[Any] | None = None
        self.stop_asked = False
        self.first_step = self.looked_step = 0
        self._saved = time.monotonic()
        # Swaps the averaged weights in and out.
        self.average = keras.callbacks.SwapEMAWeights() if recipe.ema_momentum else None

    def set_model(self, model: Any) -> None:
        """Sets the model to save."""
        super().set_model(model)
        if self.average is not None:
            self.average.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Restores the metrics of a partially completed epoch."""
        self.first_step = self.looked_step = self.progress.step
        if self.partial is not None:
            checkpoints.restore(self.partial, self.model)
            self.partial = None

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Checks the loss, saves a checkpoint when due, and stops if requested."""
        done = self.first_step + batch + 1
        if batch + 1 == self.params["steps"]:
            return  # on_epoch_end checks, saves and stops
        late = time.monotonic() - self._saved > 60 * self.recipe.checkpoint_minutes
        # Several steps may run per execution.
        if done - self.looked_step >= _LOOK_EVERY or late or self.stop_asked:
            self.look(done, logs)
            self.looked_step = done
        if late or self.stop_asked:
            self.progress.step = done
            self.checkpoint()
        if self.stop_asked:
            raise TrainingStopped

    def look(self, step: int, logs: Logs) -> None:
        """Raises an `APINetError` if the loss is NaN or infinite."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise _diverged(
                f"The loss became {loss} in {self._phase}, at or shortly before step "
                f"{step}"
            )

    @property
    def _phase(self) -> str:
        return f"epoch {self.progress.epoch + 1}" if self.values else "the head phase"

    def note(self, report: ReadingReport) -> None:
        """Records the unreadable images and logs their number."""
        self.progress.failed.update(report.failed)
        report.tell()

    def on_test_begin(self, logs: Logs = None) -> None:
        """Swaps in the averaged weights, if any, for validation."""
        if self.average is not None:
            self.average.on_test_begin()

    def on_test_end(self, logs: Logs = None) -> None:
        """Restores the weights that are being trained."""
        if self.average is not None:
            self.average.on_test_end()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Saves the results of an epoch."""
        logs = {k: float(v) for k, v in (logs or {}).items()}
        self.look((self.params or {}).get("steps") or 0, logs)
        self._check_weights(logs)
        for report in self.reports:
            self.note(report)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self.progress.rows.append({"epoch": epoch + 1, **logs, "learning_rate": rate})
        self.progress.epoch, self.progress.step = epoch + 1, 0
        self.keep(logs)
        since = self.progress.epoch - self.progress.best_epoch
        if self.recipe.patience and since >= self.recipe.patience:
            self.model.stop_training = True
        if self.model.stop_training or epoch + 1 == self.recipe.epochs:
            self.progress.ended = True
        self.checkpoint()
        if self.stop_asked and not self.progress.ended:
            raise TrainingStopped

    def _check_weights(self, scores: dict[str, float]) -> None:
        """Raises an `APINetError` unless validation loss and weights are finite.

        Checks both the trained weights and their averages, which were validated.
        """
        loss = scores.get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise _diverged(f"The validation loss became {loss} in {self._phase}")
        values = map(keras.ops.convert_to_numpy, checkpoints.variables_of(self.model))
        if not all(checkpoints.finite(v) for v in values):
            raise _diverged(f"Weights became NaN or infinite in {self._phase}")

    def keep(self, scores: dict[str, float]) -> None:
        """Saves the last model, and also as the best if it improved."""
        score = (scores.get("val_accuracy", 0.0), -scores.get("val_loss", 0.0))
        best = self.progress.best
        better = best is None or score > best or "val_accuracy" not in scores
        if better:
            self.progress.best = score
            self.progress.best_epoch = self.progress.epoch
        folder = self.run.folder
        advice = (
            "earlier files are intact: free some space, then continue with --resume "
            f"{folder}"
        )
        self.on_test_begin()
        try:
            with contextlib.ExitStack() as stack:
                if not self.writes:
                    # Saving a model that spans several hosts involves all of them.
                    folder = Path(stack.enter_context(TemporaryDirectory()))
                save_atomically(self.model, folder / "last.keras", advice)
                if better:
                    save_atomically(self.model, folder / "best.keras", advice)
        finally:
            self.on_test_end()
        logs = {"log_head.csv": self.head_rows, "log.csv": self.progress.rows}
        for name, rows in logs.items():
            if rows and self.writes:
                write_atomically(folder / name, _table(rows), advice=advice)

    def checkpoint(self) -> None:
        """Writes a checkpoint now."""
        self.values = checkpoints.values_of(self.model)
        if not all(map(checkpoints.finite, self.values)):
            raise _diverged(f"Weights became NaN or infinite in {self._phase}")
        for report in self.reports:
            self.progress.failed.update(report.failed)
        if self.writes:
            folder, keep = self.run.folder, self.recipe.keep_checkpoints
            checkpoints.save(folder, self.values, self.progress, keep)
        self._saved = time.monotonic()


def _diverged(what: str) -> APINetError:
    return APINetError(
        f"{what}: usually the learning rate is too high (lower --learning-rate), or "
        "float16 overflowed (use --dtype mixed_bfloat16); models and checkpoints saved "
        "earlier are kept."
    )


def _table(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    # Only the last epoch of the head phase is validated.
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class StopSignals:
    """Handles Ctrl-C, SIGTERM (schedulers) and SIGHUP (closed terminals).

    The first signal stops training after the current step, the second immediately.
    Signals that were ignored at startup, as under `nohup`, stay ignored. Signals reach
    the main thread only; in other threads this does nothing.
    """

    def __init__(self, run_checkpoint: RunCheckpoint) -> None:
        self.run_checkpoint = run_checkpoint
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number and signal.getsignal(number) != signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self._ask)

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            if handler is not None:  # None: not installed from Python
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.run_checkpoint.stop_asked:
            raise KeyboardInterrupt
        self.run_checkpoint.stop_asked = True
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\nStopping after this step (again: immediately) ...", flush=True)
