"""Fits training into a time budget: measures its parts, then chooses settings.

The choices become settings of the recipe, so the schedule covers exactly those epochs,
and a resumed run has the same plan.
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

# The smallest useful training.
_FEWEST_EPOCHS, _FEWEST_HEAD_EPOCHS, _FEWEST_VIEWS = 3, 5, 2
# If more than this is left over, shorten all epochs to fit one more.
_LEFT_OVER = 0.04


@dataclass(frozen=True)
class Budget:
    """Time budget for a whole training run.

    Attributes:
        minutes: Total time in minutes.
        started: Start time, from `time.monotonic()`. Defaults to now.

    Raises:
        APINetError: If `minutes` is not a number above 0.
    """

    minutes: float
    started: float = dataclasses.field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        MINUTES.check("minutes", self.minutes)

    @property
    def left(self) -> float:
        """Remaining seconds."""
        return self.started + 60 * self.minutes - time.monotonic()


def fitted(setup: Setup, budget: Budget) -> Setup:
    """Chooses epochs, and if necessary fewer views and head epochs, for a budget.

    Args:
        setup: The training setup; its model is not changed.
        budget: The time budget.

    Raises:
        APINetError: If the budget is too short for the smallest training, or there are
            several processes, which would each choose independently.
    """
    if setup.placement.processes > 1:
        raise APINetError(
            f"minutes={budget.minutes:g} requires a single process, but there are "
            f"{setup.placement.processes}; give --epochs instead."
        )
    limit = min(20.0, max(0.5, 0.02 * 60 * budget.minutes))
    costs = measured(setup, limit)
    recipe, told = chosen(setup.recipe, costs, budget.left, budget.minutes)
    setup.say(told)
    return dataclasses.replace(setup, recipe=recipe)


def chosen(
    recipe: Recipe, costs: Costs, left: float, minutes: float
) -> tuple[Recipe, str]:
    """The recipe that fits into the remaining time, and a message about it.

    Chooses as many epochs as fit; if these are too few, reduces first the views, then
    the head epochs.

    Args:
        recipe: The requested recipe.
        costs: Measured times of its parts.
        left: Remaining seconds.
        minutes: The total budget, for messages.

    Raises:
        APINetError: If the budget is too short for the smallest training.

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
            # Add a margin, as times vary.
            enough = math.ceil(10.5 * (minutes + (need - left) / 60)) / 10
            raise APINetError(
                f"minutes={minutes:g} is too short: {_FEWEST_EPOCHS} epochs on these "
                f"images, the minimum, take about {enough:g} minutes here; give at "
                "least that many, fewer images, a smaller --image-size or a larger "
                "--freeze-fraction."
            )
    left -= costs.before_epochs(views, head)
    epochs, steps = min(int(left / costs.epoch), MOST_EPOCHS), recipe.steps_per_epoch
    over = left - epochs * costs.epoch
    if over > _LEFT_OVER * 60 * minutes and steps is None and epochs < MOST_EPOCHS:
        fewer = int((left / (epochs + 1) - costs.epoch_end) / costs.step)
        fewer -= fewer % recipe.steps_per_execution
        # One more epoch costs one more validation, which may not fit.
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
