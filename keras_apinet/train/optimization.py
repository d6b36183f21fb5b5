"""Optimizer and learning-rate schedule of a recipe."""

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
    """The highest learning rate of a run.

    Unless asked for, 1e-4 for backbones without layers that normalise, 3e-4 for other
    pretrained ones, 2e-3 for other random weights. A VGG16 with random weights does not
    learn at 2e-3, and late at 3e-4.
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
    """The learning rate of every step of a run of so many batches.

    Keras asks for the rate of a batch, also where only every third one changes the
    weights.
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

    That of the head phase is AdamW, one rate for all layers, no accumulation and no
    averages.
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
    """Trains with a rate that rises at every step, and tells the loss at each.

    The range test of Smith (2017); the weights are of no use afterwards. It ends
    earlier where the loss is four times its lowest. Returns rates, from 1e-6 towards 1,
    and losses, smoothed over about ten batches.
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
            f"The loss is no number even at a learning rate of {rates[0]:.0e}; look at "
            "the weights and the images, or train with --dtype float32."
        )
    return rates[: len(rising.smooth)], np.array(rising.smooth)


def suggested_rate(rates: ArrayLike, losses: ArrayLike) -> float:
    """A tenth of the rate at which the loss is lowest: where it still falls steeply.

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
        # Keras tells the mean of all batches so far.
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
    """For each variable of the backbone, its share of the head's learning rate.

    The backbone's layers that have weights lie on a geometric line from `first`, in
    their order, to the head's 1 (Howard and Ruder 2018 call that discriminative
    fine-tuning).
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
    """Checks that the batches of an epoch and of the run can be grouped as asked."""
    each, total = recipe.steps_per_execution, recipe.epochs * steps
    if recipe.epochs and steps % each:
        # Keras would run whole groups, and so more batches than an epoch has.
        fits = max(n for n in range(1, each) if steps % n == 0)
        raise APINetError(
            f"steps_per_execution={each} does not divide the {steps} batches of an "
            f"epoch; set --steps-per-execution {fits}, or a --steps-per-epoch that it "
            "divides."
        )
    if 0 < total < recipe.gradient_accumulation_steps:
        raise APINetError(
            f"gradient_accumulation_steps={recipe.gradient_accumulation_steps}: the "
            f"whole run has {total} batches, and no weight would ever change; lower "
            "--gradient-accumulation-steps, or raise --epochs."
        )
