"""Training output: console lines, progress bar, loggers and plots of the curves."""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import keras
from numpy.typing import ArrayLike

from keras_apinet.errors import APINetError, printable, reason
from keras_apinet.evaluate import plots
from keras_apinet.evaluate.pages import need
from keras_apinet.files.io import write_atomically
from keras_apinet.files.outputs import picture_bytes
from keras_apinet.progress import Phase, clock
from keras_apinet.train.devices import peak_memory
from keras_apinet.train.recipe import Recipe
from keras_apinet.types import Logs


class Console:
    """Console output of training: lines and, on a terminal, a progress bar."""

    def __init__(self, verbose: str, speaks: bool = True) -> None:
        auto = verbose == "auto" and sys.stderr.isatty()
        self.bar = (auto or verbose == "bar") and speaks
        self.lines = verbose != "quiet" and speaks

    def __call__(self, text: str) -> None:
        """Prints a line, unless in quiet mode."""
        if self.lines:
            print(printable(text, keep="\n"), flush=True)


class EpochLine(keras.callbacks.Callback):
    """Updates the progress bar, and prints one line per completed epoch."""

    def __init__(
        self, say: Console, shown: Phase, epochs: int, steps: int, batch_size: int
    ) -> None:
        super().__init__()
        self.say, self.shown = say, shown
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.epoch = self.steps_done = self.seen = 0
        self.started = self.epoch_started = self.training_s = 0.0
        self.validated = ""

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts the timers."""
        self.epoch_started = time.monotonic()
        self.started = self.started or self.epoch_started
        self.epoch, self.training_s, self.steps_done = epoch, 0.0, 0

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Counts the steps and updates the bar."""
        self.steps_done = batch + 1
        # A resumed epoch has fewer steps: it starts in the middle.
        ahead = self.epoch * self.steps + self.steps - self.params["steps"]
        self.shown(
            (ahead + self.steps_done) * self.batch_size,
            lambda: running(logs) + self.validated,
            f"Epoch {self.epoch + 1}/{self.epochs}",
        )

    def on_test_begin(self, logs: Logs = None) -> None:
        """Records the training time of the epoch, before validation."""
        self.training_s = time.monotonic() - self.epoch_started

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Prints the line of the epoch."""
        logs = logs or {}
        now = time.monotonic()
        took = self.training_s or now - self.epoch_started
        self.seen += self.steps_done
        figures = [f"loss {logs['loss']:.2f}", f"accuracy {logs['accuracy']:.1%}"]
        if "val_accuracy" in logs:
            figures.append(f"validation {logs['val_accuracy']:.1%}")
            self.validated = f" validation {logs['val_accuracy']:.0%}"
        images = self.steps_done * self.batch_size
        figures.append(f"{images / max(took, 1e-9):,.0f} images/s")
        memory = peak_memory()
        if memory is not None:
            figures.append(f"{memory / 2**30:.1f} GiB on the GPU")
        # After the last epoch, calibration still follows.
        if epoch + 1 < self.epochs:
            left = (now - self.started) / max(self.seen, 1)
            left *= (self.epochs - epoch - 1) * self.steps
            figures.append(f"{clock(left)} left")
        # Single spaces, so that 100 epochs with hours left fit in 80 columns.
        self.say(f"Epoch {epoch + 1}/{self.epochs} {' '.join(figures)}")


def running(logs: Logs) -> str:
    """Running loss and accuracy, for the progress bar."""
    logs = logs or {}
    return f"loss {float(logs['loss']):.2f} accuracy {float(logs['accuracy']):.0%}"


def loggers(recipe: Recipe, folder: Path) -> list[keras.callbacks.Callback]:
    """Callbacks for TensorBoard, if installed, and for the recipe's `tracker`.

    The tracker's run has the name of the run folder and contains the recipe. The
    service's own login and environment variables provide the credentials.
    """
    found: list[keras.callbacks.Callback] = []
    # TensorFlow writes summaries with the tensorboard package, an extra.
    if importlib.util.find_spec("tensorboard") is not None:
        logs = folder / "tensorboard"
        found.append(keras.callbacks.TensorBoard(logs, write_graph=False))
    try:
        if recipe.tracker == "wandb":
            import wandb
            from wandb.integration.keras import WandbMetricsLogger

            if wandb.run is None:  # a resumed run calls `fit` twice
                wandb.init(name=folder.name, config=recipe.asdict())
            found.append(WandbMetricsLogger())
        elif recipe.tracker == "mlflow":
            import mlflow
            from mlflow.keras import MlflowCallback

            if mlflow.active_run() is None:
                mlflow.start_run(run_name=folder.name)
                mlflow.log_params(recipe.asdict())
            found.append(MlflowCallback())
    except ImportError as error:
        raise APINetError(
            f"tracker={recipe.tracker!r} requires a package that is not installed "
            f"({reason(error)}): pip install {recipe.tracker}, or omit tracker."
        ) from error
    return found


def draw_curves(folder: Path, best: int) -> bool:
    """Plots a run's logs as `curves.png` and `curves.svg`; false without matplotlib."""
    log, head = plots.read_log(folder)

    def draw(figure: Any) -> None:
        for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            plots.draw_curve(axis, log, name, best, head)

    for ending in ("png", "svg"):
        try:
            picture = plots.drawn((9, 3.6), draw, ending, facecolor="white", dpi=150)
        except ImportError:
            return False
        write_atomically(folder / f"curves.{ending}", picture)
    return True


def draw_rates(rates: ArrayLike, losses: ArrayLike, chosen: float, path: Path) -> bytes:
    """A plot of the loss at each learning rate, in the format of the path."""
    need("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained", dpi=150)
    axis = figure.add_subplot()
    axis.plot(rates, losses)
    axis.axvline(chosen, color="tab:orange", label=f"suggested: {chosen:.1e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss (mean of ~10 batches)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return picture_bytes(figure, path)
