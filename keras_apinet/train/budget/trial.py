"""Measures the time of each part of training.

Each part runs briefly with the actual data and model, whose weights are restored
afterwards.
"""

import contextlib
import dataclasses
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from keras_apinet.data import ImageData
from keras_apinet.evaluate.calibration import too_few
from keras_apinet.evaluate.feature_maps import evenly
from keras_apinet.progress import phase
from keras_apinet.runs import Run
from keras_apinet.train import cached_views, checkpoints, head_phase
from keras_apinet.train.budget.pace import EnoughError, EpochEnds, HeadPace, Pace
from keras_apinet.train.callbacks import RunCheckpoint
from keras_apinet.train.optimization import schedule
from keras_apinet.train.progress import loggers
from keras_apinet.train.setup import Setup, own_globals

# Reading the best model's metrics, calibration, plotting the curves.
_FINISHING_S = 3.0
# Maximum number of photos per split to measure on.
_PHOTOS = 256
# More than any measurement runs for.
_EPOCHS = 10_000


@dataclass(frozen=True)
class Costs:
    """Time of each part of training, in seconds.

    Attributes:
        once: Fixed costs: compilation, and everything after the last epoch.
        step: One batch when training all layers.
        steps: Number of batches per epoch.
        epoch_end: Validation and saving after an epoch.
        head_start: Work before the first and after the last epoch of the head phase.
        head_epoch: One epoch of the head phase.
        view: One cached view of every image.
    """

    once: float
    step: float
    steps: int
    epoch_end: float
    head_start: float = 0.0
    head_epoch: float = 0.0
    view: float = 0.0

    @property
    def epoch(self) -> float:
        """One epoch of training all layers."""
        return self.steps * self.step + self.epoch_end

    def before_epochs(self, views: int, head_epochs: int) -> float:
        """Everything except the epochs that train all layers."""
        head = self.head_start + head_epochs * self.head_epoch if head_epochs else 0.0
        return self.once + views * self.view + head


def measured(setup: Setup, limit: float) -> Costs:
    """Measures the parts of training; the model is not changed.

    Args:
        setup: The training setup.
        limit: Seconds per part, after its first batch.
    """
    model, recipe = setup.model, setup.recipe
    values = [keras.ops.convert_to_numpy(v) for v in model.variables]
    plain = dataclasses.replace(recipe, epochs=2, patience=0, tracker=None)
    trial = dataclasses.replace(setup, recipe=plain)
    with own_globals(), phase("Measuring the time per step"):
        try:
            return Trial(trial, limit).all()
        finally:
            for variable, value in zip(model.variables, values, strict=True):
                variable.assign(value)


class Trial:
    """Runs each part of training briefly."""

    def __init__(self, setup: Setup, limit: float) -> None:
        self.setup, self.limit = setup, limit
        self.train = setup.images.splits["train"]
        # The first photos may not be representative: one class, or smaller.
        order = np.random.default_rng(0).permutation(len(self.train))
        self.mixed = self.train.take(order)

    def all(self) -> Costs:
        """Costs of all parts that the recipe uses."""
        source, begun, view = self._views()
        measured_on = source
        if source is self.setup:
            measured_on, begun = self.read_before()
        costs = self._epochs(measured_on, source.batches().plan.epoch_steps)
        found: dict[str, Any] = {"once": costs.once + begun, "view": view}
        if self.setup.recipe.head_phase_epochs:
            start, found["head_epoch"] = self._head()
            # The head phase also ends with validation and saving.
            found["head_start"] = start + costs.epoch_end
        return dataclasses.replace(costs, **found)

    def _views(self) -> tuple[Any, float, float]:
        """The source of batches, seconds before the first view, and per view."""
        setup, count = self.setup, self.setup.recipe.cached_views
        if not count:
            return setup, 0.0, 0.0
        model, pace = setup.model.frozen_model(), Pace(self.limit)
        batches, size = setup.in_order(
            self.mixed,
            images=16,
            on_error="skip",
            augmentation=setup.recipe.augmentation,
            views=count,
        )
        predict = cached_views.predictor(setup, model, size)
        with batches.report:
            for images, _ in pace.over(batches):
                views = [cached_views.half(predict(images[:, i])) for i in range(count)]
        # Repeat one image: the content does not affect the time.
        shape = (1, len(self.train), *views[0].shape[1:])
        stored = np.broadcast_to(views[0][:1], shape)
        source = cached_views.StoredViews(setup, stored, self.train.labels, {})
        if cached_views.are_stored(setup):
            return source, 0.0, 0.0
        return source, pace.first, pace.each / size / count * len(self.train)

    def read_before(self) -> tuple[Setup, float]:
        """A setup with some photos already read, and the extra time to read all.

        The first read comes from disk, or generates the photo; epochs repeat reads.
        """
        setup, images = self.setup, self.setup.images
        each_class = np.unique(self.train.labels, return_index=True)[1]
        some = self.train.take(np.union1d(evenly(self.train, _PHOTOS), each_class))
        batches, size = setup.in_order(some, 16, on_error="skip")
        first, again = Pace(math.inf), Pace(math.inf)
        for pace in (first, again):
            pace.marks = [(time.monotonic(), 0)]
            with batches.report:
                for _ in pace.over(batches):
                    pass
        added = max(0.0, first.each - again.each) / size * len(self.train)
        if setup.recipe.head_phase_epochs and setup.recipe.cached_head_features:
            added = 0.0  # the head phase reads them first
        known = dataclasses.replace(images, splits={**images.splits, "train": some})
        return dataclasses.replace(setup, images=known), added

    def _epochs(self, source: Any, steps: int) -> Costs:
        """Costs of training all layers, with `steps` batches per epoch."""
        setup, recipe, model = self.setup, self.setup.recipe, self.setup.model
        # A rate low enough to keep the weights unchanged and finite.
        setup.compile(schedule(recipe, 1e-9, 1000))
        batches, pace = source.batches(), Pace(self.limit)
        group = recipe.steps_per_execution
        with batches.report:
            model.fit(
                batches, steps_per_epoch=1000 * group, verbose=0, callbacks=[pace]
            )
        if recipe.ema_momentum:
            # `fit` ends with the averages in the model's own variables, and JAX cannot
            # donate an array that two variables share.
            setup.compile(schedule(recipe, 1e-9, 1000))
        ends, held_out = EpochEnds(self.limit), self._held_out()
        began = time.monotonic()
        validation = dataclasses.replace(setup, images=held_out).validation()
        # With cached frozen outputs, this is most of the validation.
        preparing = time.monotonic() - began
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Your input ran out of data")
            run = Run(Path(folder), {})
            model.fit(
                source.batches(),
                validation_data=validation,
                epochs=2,
                steps_per_epoch=group,
                verbose=0,
                callbacks=[
                    RunCheckpoint(run, recipe, checkpoints.Progress()),
                    *loggers(recipe, run.folder),
                    ends,
                ],
            )
            began = time.monotonic()
            keras.saving.load_model(run.folder / "best.keras")
            loading = time.monotonic() - began
        once = pace.first + _FINISHING_S
        epoch_end = ends.took[1] - group * pace.each
        if validation is not None:
            first, test = ends.tests
            whole, part = (len(x.splits["val"]) for x in (setup.images, held_out))
            _, size = setup.in_order(held_out.splits["val"])
            epoch_end += (-(-whole // size) - test.marks[-1][1]) * test.each
            once += first.first + preparing / part * whole
            if not too_few(whole):
                # The temperature, and the threshold for unknown; see `open_world`.
                photos = 2 * whole + len(self.train) * bool(recipe.unknown_keep)
                photo = test.each / size + preparing / part
                once += loading + 2 * first.first + photos * photo
        return Costs(once, pace.each, steps, max(0.0, epoch_end))

    def _held_out(self) -> ImageData:
        """The data with a subset of the validation photos."""
        images = self.setup.images
        if "val" not in images.splits:
            return images
        split = images.splits["val"]
        some = np.random.default_rng(0).permutation(len(split))[:_PHOTOS]
        return dataclasses.replace(
            images, splits={**images.splits, "val": split.take(some)}
        )

    def _head(self) -> tuple[float, float]:
        """Seconds before the first epoch of the head phase, and per epoch."""
        setup, labels, start = self.setup, self.train.labels, 0.0
        plan, batches = setup.plan(labels), None
        if setup.recipe.cached_head_features:
            found, pace = setup.in_order(self.mixed, on_error="skip"), Pace(self.limit)
            predict = cached_views.predictor(
                setup, setup.model.feature_model(), found[1]
            )
            with found[0].report:
                for images, _ in pace.over(found[0]):
                    features = predict(images)
            start = pace.first + pace.each / found[1] * len(labels)
            features = np.resize(features, (len(labels), features.shape[1]))
            batches = head_phase.FeatureBatches(features, labels, plan, _EPOCHS)
        watch = HeadPace(self.limit, setup.recipe.steps_per_execution)
        with contextlib.suppress(EnoughError):
            head_phase.train_head(setup, _EPOCHS, watch, batches)
        return start + watch.first, watch.each * plan.epoch_steps
