"""The optimizer and learning-rate schedule of a recipe."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.compat import flatten_layers, own_trainable_variables
from keras_apinet.errors import APINetError
from keras_apinet.model.apinet import APINet
from keras_apinet.optimizers import LayerwiseAdamW, LayerwiseSGD, OneCycle, Rising
from keras_apinet.progress import Phase, phase
from keras_apinet.train.recipe import Recipe
from keras_apinet.types import Logs

if TYPE_CHECKING:
    from keras_apinet.train.setup import Setup

Values = NDArray[np.float64]


def peak_rate(recipe: Recipe, model: APINet) -> float:
    """The peak learning rate of a run.

    The default is 1e-4 for backbones without normalization layers, 3e-4 for other
    pretrained ones and 2e-3 for other random weights. VGG16 with random weights does
    not learn at 2e-3, and only slowly at 3e-4.
    """
    if recipe.learning_rate is not None:
        return recipe.learning_rate
    norms = (
        keras.layers.BatchNormalization,
        keras.layers.GroupNormalization,
        keras.layers.LayerNormalization,
    )
    normalises = any(isinstance(x, norms) for x in flatten_layers(model.backbone))
    if not normalises:
        return 1e-4
    return 3e-4 if recipe.backbone_weights else 2e-3


def schedule(
    recipe: Recipe, peak: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning-rate schedule of a run of `steps` batches.

    Keras evaluates it for every batch, even if gradient accumulation updates the
    weights less often.
    """
    rising = round(recipe.warmup_fraction * steps)
    falling = max(1, steps - rising)
    schedules = keras.optimizers.schedules
    if recipe.schedule == "cosine":
        return schedules.CosineDecay(
            0.0 if rising else peak,
            falling,
            warmup_target=peak if rising else None,
            warmup_steps=rising,
        )
    if recipe.schedule == "one_cycle":
        return OneCycle(peak, steps)
    end = 0.0 if recipe.schedule == "linear" else peak
    return Rising(peak, rising, schedules.PolynomialDecay(peak, falling, end))


def optimizer(
    recipe: Recipe, model: APINet, rate: Any, *, head: bool = False
) -> keras.optimizers.Optimizer:
    """The optimizer of a phase, with a learning rate or schedule.

    The head phase uses AdamW with one rate for all layers, without gradient
    accumulation or weight averaging.
    """
    options: dict[str, Any] = {
        "learning_rate": rate,
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": recipe.clipnorm,
    }
    name = "adamw" if head else recipe.optimizer
    if not head:
        if recipe.ema_momentum:
            options |= {"use_ema": True, "ema_momentum": recipe.ema_momentum}
        if recipe.gradient_accumulation_steps > 1:
            options["gradient_accumulation_steps"] = recipe.gradient_accumulation_steps
    if name == "sgd":
        options |= {"momentum": 0.9, "weight_decay_mode": recipe.weight_decay_mode}
    if recipe.layer_decay != 1 and not head:
        options["layer_shares"] = layer_shares(model, recipe.layer_decay)
    if not recipe.decay_all:
        options["undecayed"] = ["bias", "gamma", "beta"]
    return (LayerwiseSGD if name == "sgd" else LayerwiseAdamW)(**options)


def try_rates(setup: "Setup", steps: int = 100) -> tuple[Values, Values]:
    """Runs a learning-rate range test (Smith 2017).

    The rate rises from 1e-6 toward 1, and the test stops early when the loss exceeds
    four times its minimum. The weights are useless afterwards. Returns the rates and
    the losses, smoothed over about ten batches.
    """
    rates = np.geomspace(1e-6, 1, steps)
    with setup.placement.scope():
        made = optimizer(setup.recipe, setup.model, float(rates[0]))
        setup.model.compile(made, loss=setup.loss())
    with phase("Trying learning rates", steps, "batches") as shown:
        rising = _RisingRate(rates, shown)
        batches = setup.batches()
        with batches.report:
            setup.model.fit(
                batches, steps_per_epoch=steps, verbose=0, callbacks=[rising]
            )
    if not rising.smooth:
        raise APINetError(
            f"The loss is NaN or infinite even at a learning rate of {rates[0]:.0e}; "
            "check the weights and the images, or train with --dtype float32."
        )
    return rates[: len(rising.smooth)], np.array(rising.smooth)


def suggested_rate(rates: ArrayLike, losses: ArrayLike) -> float:
    """A tenth of the rate with the lowest loss, where the loss still falls steeply.

    >>> suggested_rate([1e-4, 1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0, 9.0])
    0.001
    """
    return float(np.asarray(rates)[np.argmin(losses)]) / 10


class _RisingRate(keras.callbacks.Callback):
    def __init__(self, rates: Values, shown: Phase) -> None:
        super().__init__()
        self.rates, self.shown = rates, shown
        self.smooth: list[float] = []
        self.total = self.average = 0.0

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self.model.optimizer.learning_rate = float(self.rates[batch])

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Keras reports the mean of all batches so far.
        total = float((logs or {})["loss"]) * (batch + 1)
        loss, self.total = total - self.total, total
        self.average = 0.9 * self.average + 0.1 * loss
        smooth = self.average / (1 - 0.9 ** (batch + 1))
        lowest = min(self.smooth, default=smooth)
        self.shown(batch + 1, lambda: f"rate {self.rates[batch]:.0e} loss {smooth:.2f}")
        if np.isfinite(smooth):
            self.smooth.append(smooth)
        if not smooth <= 4 * lowest:
            self.model.stop_training = True


def layer_shares(model: APINet, first: float) -> dict[str, float]:
    """The learning rate of each backbone variable relative to the head's.

    It grows geometrically over the backbone's layers with weights, in order, from
    `first` to the head's 1 (discriminative fine-tuning, Howard and Ruder 2018).
    """
    layers = [
        layer
        for layer in flatten_layers(model.backbone, include_self=False)
        if layer.trainable and own_trainable_variables(layer)
    ]
    return {
        variable.path: first ** (1 - depth / len(layers))
        for depth, layer in enumerate(layers)
        for variable in own_trainable_variables(layer)
    }


def check_steps(recipe: Recipe, steps: int) -> None:
    """Checks that the batches of an epoch and of the run can be grouped."""
    each, total = recipe.steps_per_execution, recipe.epochs * steps
    if recipe.epochs and steps % each:
        # Keras would run whole groups, hence more batches than an epoch has.
        fits = max(n for n in range(1, each) if steps % n == 0)
        raise APINetError(
            f"steps_per_execution={each} does not divide the {steps} batches of an "
            f"epoch; set --steps-per-execution {fits}, or change "
            "--steps-per-epoch."
        )
    if 0 < total < recipe.gradient_accumulation_steps:
        raise APINetError(
            f"gradient_accumulation_steps={recipe.gradient_accumulation_steps}: the "
            f"whole run has only {total} batches, so the weights would never be "
            "updated; lower --gradient-accumulation-steps, or raise --epochs."
        )
