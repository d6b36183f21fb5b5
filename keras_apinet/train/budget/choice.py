"""A training in a given time: what its parts take is measured, then numbers are chosen.

The numbers are settings of the recipe, so the rate falls over exactly those epochs, and
a run that goes on has the same plan.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Any

from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import MINUTES
from keras_apinet.progress import clock
from keras_apinet.train.budget.trial import Costs, measured
from keras_apinet.train.recipe import MOST_EPOCHS, Recipe
from keras_apinet.train.setup import Setup

# The smallest training that is worth its time.
_FEWEST_EPOCHS, _FEWEST_HEAD_EPOCHS, _FEWEST_VIEWS = 3, 5, 2
# Where an epoch takes long, a shorter one more fills the rest of the time.
_LEFT_OVER = 0.04


@dataclass(frozen=True)
class Budget:
    """The time that a training may take, from its start to its end.

    Attributes:
        minutes: How long.
        started: What `time.monotonic()` was when it began. Default: now.

    Raises:
        APINetError: If `minutes` is no number above 0.
    """

    minutes: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        MINUTES.check("minutes", self.minutes)

    @property
    def left(self) -> float:
        """Seconds from now to its end."""
        return self.started + 60 * self.minutes - time.monotonic()


def fitted(setup: Setup, budget: Budget) -> Setup:
    """A training whose epochs, and if need be views and head epochs, fit into a time.

    Args:
        setup: The training; its model is left as it is.
        budget: The time.

    Raises:
        APINetError: If there is no time for the smallest training, or there are
            several processes, which would each choose for themselves.
    """
    if setup.placement.processes > 1:
        raise APINetError(
            f"minutes={budget.minutes:g} is measured by one process, and there are "
            f"{setup.placement.processes}; give --epochs."
        )
    limit = min(20.0, max(0.5, 0.02 * 60 * budget.minutes))
    costs = measured(setup, limit)
    recipe, told = chosen(setup.recipe, costs, budget.left, budget.minutes)
    setup.say(told)
    return dataclasses.replace(setup, recipe=recipe)


def chosen(
    recipe: Recipe, costs: Costs, left: float, minutes: float
) -> tuple[Recipe, str]:
    """The recipe that fits into the seconds that are left, and what to say of it.

    As many epochs as there is time for; if those are too few, fewer views and then
    fewer epochs of the head.

    Args:
        recipe: What was asked for.
        costs: What its parts take.
        left: Seconds from now.
        minutes: The whole time, for the words.

    Raises:
        APINetError: If there is no time for the smallest training.

    >>> costs = Costs(once=10, step=0.1, steps=50, epoch_end=1)
    >>> chosen(Recipe(), costs, left=130, minutes=3)[1]
    'In 3 minutes: 20 epochs, 6 s each'
    """
    views, head = recipe.cached_views, recipe.head_phase_epochs
    fewest = _FEWEST_EPOCHS * costs.epoch
    while (need := costs.before_epochs(views, head) + fewest) > left:
        if views > _FEWEST_VIEWS:
            views = max(_FEWEST_VIEWS, views // 2)
        elif head > _FEWEST_HEAD_EPOCHS:
            head = max(_FEWEST_HEAD_EPOCHS, head // 2)
        else:
            # Next time it may take a little longer.
            enough = math.ceil(10.5 * (minutes + (need - left) / 60)) / 10
            raise APINetError(
                f"minutes={minutes:g}: {_FEWEST_EPOCHS} epochs on these images, the "
                f"fewest that make sense, need about {enough:g} minutes here; give at "
                "least so many, fewer images, a smaller --image-size or a larger "
                "--freeze-fraction."
            )
    left -= costs.before_epochs(views, head)
    epochs, steps = min(int(left / costs.epoch), MOST_EPOCHS), recipe.steps_per_epoch
    over = left - epochs * costs.epoch
    if over > _LEFT_OVER * 60 * minutes and steps is None and epochs < MOST_EPOCHS:
        fewer = int((left / (epochs + 1) - costs.epoch_end) / costs.step)
        fewer -= fewer % recipe.steps_per_execution
        # One more costs one more validation, which may be more than the rest holds.
        if (epochs + 1) * fewer > epochs * costs.steps:
            epochs, steps = epochs + 1, fewer
    changes: dict[str, Any] = {"epochs": epochs, "steps_per_epoch": steps}
    batches = f" of {steps} batches" if steps != recipe.steps_per_epoch else ""
    seconds = (steps or costs.steps) * costs.step + costs.epoch_end
    each = f"{seconds:.2g} s" if seconds < 60 else clock(seconds)
    told, most = f"{epochs} epochs{batches}, {each} each", []
    for name, unit, now, before in (
        ("cached_views", "views", views, recipe.cached_views),
        ("head_epochs", "head epochs", head, recipe.head_phase_epochs),
    ):
        if now != before:
            changes[name] = now
            most.append(f"{now} {unit}")
    if most:
        told += f"; more than {' and '.join(most)} do not fit"
    return dataclasses.replace(recipe, **changes), f"In {minutes:g} minutes: {told}"
