"""The head phase: trains interaction and classifier while the backbone is frozen."""

import contextlib
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet import data
from keras_apinet.progress import Phase, phase
from keras_apinet.train.cached_views import predictor
from keras_apinet.train.progress import running
from keras_apinet.types import Logs

if TYPE_CHECKING:
    from keras_apinet.train.callbacks import RunCheckpoint
    from keras_apinet.train.setup import Setup


def train_head(
    setup: "Setup",
    epochs: int,
    run_checkpoint: "RunCheckpoint",
    batches: Any = None,
) -> None:
    """Trains interaction and classifier on a frozen backbone.

    The backbone runs in inference mode without gradients. If the recipe allows it, the
    features of the un-augmented images are computed once, so an epoch costs only as
    much as the head.

    Args:
        setup: The training setup.
        epochs: Number of passes over the training images.
        run_checkpoint: Receives stop requests, unreadable images and the metrics of
            each epoch; nothing is saved before the end.
        batches: `FeatureBatches` to train on. By default they are computed, if the
            recipe uses them.
    """
    model, recipe = setup.model, setup.recipe
    # Features cannot be gathered from the devices of other processes.
    cached = recipe.cached_head_features and setup.placement.processes == 1
    if batches is None:
        batches = _cached(setup, epochs, run_checkpoint) if cached else setup.batches()
    report = contextlib.nullcontext() if cached else batches.report
    # The head should not train on statistics that are about to change.
    policy, model.batch_norm = model.batch_norm, "inference"
    model.train_backbone(False)
    try:
        steps, most = batches.plan.epoch_steps, recipe.steps_per_execution
        # Keras only runs whole groups of steps.
        each = max(n for n in range(1, most + 1) if steps % n == 0)
        rate = keras.optimizers.schedules.CosineDecay(
            recipe.head_learning_rate, epochs * steps
        )
        setup.compile(rate, head=True, steps_per_execution=each)
        size = batches.plan.batch_size
        total = epochs * steps * size
        with report, phase("Training the head", total, "images") as shown:
            model.fit(
                batches,
                epochs=epochs,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=[_Watch(run_checkpoint, shown, size)],
            )
        if not cached:
            run_checkpoint.note(batches.report)
    finally:
        model.train_backbone(True)
        model.batch_norm = policy


class _Watch(keras.callbacks.Callback):
    """Records each epoch; stops on request, or if the loss is NaN or infinite."""

    def __init__(
        self, run_checkpoint: "RunCheckpoint", shown: Phase, batch_size: int
    ) -> None:
        super().__init__()
        self.run_checkpoint = run_checkpoint
        self.shown, self.batch_size = shown, batch_size
        self.before = 0

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.before += self.params["steps"]
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        figures = {name: float(value) for name, value in (logs or {}).items()}
        row = {"epoch": epoch + 1, **figures, "learning_rate": rate}
        self.run_checkpoint.head_rows.append(row)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        done = self.before + batch + 1
        self.run_checkpoint.look(done, logs)
        self.shown(done * self.batch_size, lambda: running(logs))
        if self.run_checkpoint.stop_asked:
            # Nothing to save yet: a resumed run starts with the head phase.
            raise KeyboardInterrupt


def _cached(
    setup: "Setup", epochs: int, run_checkpoint: "RunCheckpoint"
) -> "FeatureBatches":
    split = setup.images.splits["train"]
    batches, size = setup.in_order(split, on_error="skip")
    features, labels = [], []
    with batches.report, phase("Computing features", len(split)) as shown:
        features_of = predictor(setup, setup.model.feature_model(), size)
        for images, batch_labels in batches:
            features.append(features_of(images))
            labels.append(np.asarray(batch_labels))
            shown(sum(map(len, labels)))
    run_checkpoint.note(batches.report)
    plan = setup.plan(np.concatenate(labels))
    return FeatureBatches(
        np.concatenate(features), np.concatenate(labels), plan, epochs
    )


class FeatureBatches(keras.utils.PyDataset):
    """Balanced batches of in-memory features, for all epochs in sequence."""

    def __init__(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        plan: data.BatchPlan,
        epochs: int,
    ) -> None:
        super().__init__()
        self.features, self.labels, self.plan = features, labels, plan
        self.epochs = epochs

    def __len__(self) -> int:
        return self.epochs * self.plan.epoch_steps

    def __getitem__(self, step: int) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
        rows = self.plan.indices(0, step)
        return {"features": self.features[rows]}, self.labels[rows]
