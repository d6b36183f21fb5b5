"""How fast batches and epochs go by."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_apinet.types import Logs

# Batches that wait when the first step ends; they say nothing about the time they took.
_WAITING = 4


class Pace(keras.callbacks.Callback):
    """How long the first of many batches takes, and how long each after that.

    As a callback of `fit` it ends it when that is known.

    Args:
        limit: Seconds to look at, after the first batch.
        clock: Tells the seconds.
    """

    def __init__(
        self, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.limit, self.clock = limit, clock
        self.marks = [(clock(), 0)]
        self.stop_asked = False

    def reached(self, count: int) -> bool:
        """Notes that so many batches are done; tells whether that is enough."""
        self.marks.append((self.clock(), count))
        enough = self.marks[-1][0] - self.marks[1][0] >= self.limit
        return enough and len(self.marks) > 3

    @property
    def each(self) -> float:
        """Seconds for a batch."""
        # Of the first one alone, all that it took.
        begin = min(len(self.marks) - 2, 1)
        if len(self.marks) > 2 * _WAITING + 1:
            begin = _WAITING
        (start, before), (end, done) = self.marks[begin], self.marks[-1]
        return (end - start) / (done - before)

    @property
    def first(self) -> float:
        """Seconds that the first batch took beyond what each takes."""
        (start, _), (end, count) = self.marks[:2]
        return max(0.0, end - start - count * self.each)

    def over(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Hands out batches, each after the one before was used, until it is enough."""
        for done, batch in enumerate(batches):
            if done and self.reached(done):
                return
            yield batch
        self.reached(done + 1)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Waits for the step, and notes it."""
        float((logs or {})["loss"])
        if self.reached(batch + 1):
            self.model.stop_training = True


class EpochEnds(keras.callbacks.Callback):
    """How long whole epochs take, and the batches of their validations."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.tests: list[Pace] = []
        self.took: list[float] = []
        self.began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts the clock."""
        self.began = time.monotonic()

    def on_test_begin(self, logs: Logs = None) -> None:
        """Begins to look at a validation."""
        self.tests.append(Pace(self.limit))

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Waits for the batch, notes it, and ends the validation when it is enough."""
        float((logs or {})["loss"])
        if self.tests[-1].reached(batch + 1):
            self.model.stop_evaluating = True

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Notes how long all of it took."""
        self.took.append(time.monotonic() - self.began)


class HeadPace(Pace):
    """Stands in for the `RunCheckpoint` of a head phase, which it ends."""

    def __init__(self, limit: float, group: int) -> None:
        super().__init__(limit)
        self.group = group
        self.head_rows: list[dict[str, float]] = []

    def look(self, step: int, logs: Logs) -> None:
        """Waits for the step, notes it, and ends the phase when it is enough."""
        float((logs or {})["loss"])
        if self.reached(self.marks[-1][1] + self.group):
            raise EnoughError


class EnoughError(Exception):
    """The head phase has been looked at for long enough."""
