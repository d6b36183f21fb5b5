"""What happens after steps and epochs: models and checkpoints are kept."""

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

# A loss is looked at this often: asking for it makes the program wait for the device.
_LOOK_EVERY = 20


class TrainingStopped(KeyboardInterrupt):
    """The user asked to stop; a checkpoint was written first."""


class RunCheckpoint(keras.callbacks.Callback):
    """Keeps the best and the last model, the log, and checkpoints to go on from.

    The best model has the highest validation accuracy; equal ones are settled by the
    lower validation loss. Without a validation split it is the last. A loss, a
    validation loss or weights that are NaN or infinite end the training before anything
    of that epoch is kept.

    Args:
        run: Where to keep them.
        recipe: How often, how many, and when to give up.
        progress: How far the run had come.
        writes: Whether this process writes; of several, only the first does.
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
        # Keras's own way to put the averaged weights in and out again.
        self.average = keras.callbacks.SwapEMAWeights() if recipe.ema_momentum else None

    def set_model(self, model: Any) -> None:
        """Takes the model to keep."""
        super().set_model(model)
        if self.average is not None:
            self.average.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Goes on with the figures of an epoch that had been begun."""
        self.first_step = self.looked_step = self.progress.step
        if self.partial is not None:
            checkpoints.restore(self.partial, self.model)
            self.partial = None

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Stops if asked to, looks at the loss, and saves when it is time."""
        done = self.first_step + batch + 1
        if batch + 1 == self.params["steps"]:
            return  # the epoch's end looks, saves and stops
        late = time.monotonic() - self._saved > 60 * self.recipe.checkpoint_minutes
        # Several steps may have been executed at a time.
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
        """Lists the images that could not be read, and says how many there are."""
        self.progress.failed.update(report.failed)
        report.tell()

    def on_test_begin(self, logs: Logs = None) -> None:
        """Validates the averaged weights, if there are any."""
        if self.average is not None:
            self.average.on_test_begin()

    def on_test_end(self, logs: Logs = None) -> None:
        """Puts the weights that are being trained back."""
        if self.average is not None:
            self.average.on_test_end()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Keeps what an epoch brought."""
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

        The weights that are trained and their averages, which were validated.
        """
        loss = scores.get("val_loss", 0.0)
        if not math.isfinite(loss):
            raise _diverged(f"The validation loss became {loss} in {self._phase}")
        values = map(keras.ops.convert_to_numpy, checkpoints.variables_of(self.model))
        if not all(checkpoints.finite(v) for v in values):
            raise _diverged(f"Weights became NaN or infinite in {self._phase}")

    def keep(self, scores: dict[str, float]) -> None:
        """Saves the model as the last, and as the best if it is."""
        score = (scores.get("val_accuracy", 0.0), -scores.get("val_loss", 0.0))
        best = self.progress.best
        better = best is None or score > best or "val_accuracy" not in scores
        if better:
            self.progress.best = score
            self.progress.best_epoch = self.progress.epoch
        folder = self.run.folder
        advice = (
            "what was saved before is whole: make room, then go on with --resume "
            f"{folder}"
        )
        self.on_test_begin()
        try:
            with contextlib.ExitStack() as stack:
                if not self.writes:
                    # Saving a model that lies on several hosts takes all of them.
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
        f"{what}: most often the learning rate is too high (lower --learning-rate), or "
        "float16 overflowed (take --dtype mixed_bfloat16); the models and checkpoints "
        "saved before are kept."
    )


def _table(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    # Of the head phase, only the last epoch is validated.
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class StopSignals:
    """Ctrl-C, SIGTERM as a scheduler sends it, and SIGHUP of a terminal that closes.

    They stop the training after the step; a second one stops it at once. One that the
    program was started to ignore, as under `nohup`, stays ignored. Signals reach the
    main thread only; elsewhere this does nothing.
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
            if handler is not None:  # None: it was not installed from Python
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.run_checkpoint.stop_asked:
            raise KeyboardInterrupt
        self.run_checkpoint.stop_asked = True
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("\nStopping after this step (once more: at once) ...", flush=True)
