"""Measures the time of batches and epochs."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_apinet.types import Logs

# Batches prefetched during the first step; their times are not representative.
_WAITING = 4


class Pace(keras.callbacks.Callback):
    """Measures the time of the first batch, and of each batch after it.

    As a callback, it stops `fit` after enough measurements.

    Args:
        limit: Seconds to measure, after the first batch.
        clock: Function that returns the time in seconds.
    """

    def __init__(
        self, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.limit, self.clock = limit, clock
        self.marks = [(clock(), 0)]
        self.stop_asked = False

    def reached(self, count: int) -> bool:
        """Records that `count` batches are done; returns whether that is enough."""
        self.marks.append((self.clock(), count))
        enough = self.marks[-1][0] - self.marks[1][0] >= self.limit
        return enough and len(self.marks) > 3

    @property
    def each(self) -> float:
        """Seconds per batch."""
        # With only one batch, its total time.
        begin = min(len(self.marks) - 2, 1)
        if len(self.marks) > 2 * _WAITING + 1:
            begin = _WAITING
        (start, before), (end, done) = self.marks[begin], self.marks[-1]
        return (end - start) / (done - before)

    @property
    def first(self) -> float:
        """Extra seconds of the first batch."""
        (start, _), (end, count) = self.marks[:2]
        return max(0.0, end - start - count * self.each)

    def over(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Yields batches one by one until there are enough measurements."""
        for done, batch in enumerate(batches):
            if done and self.reached(done):
                return
            yield batch
        self.reached(done + 1)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Waits for the step and records its time."""
        float((logs or {})["loss"])
        if self.reached(batch + 1):
            self.model.stop_training = True


class EpochEnds(keras.callbacks.Callback):
    """Measures whole epochs, and the batches of their validation."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.tests: list[Pace] = []
        self.took: list[float] = []
        self.began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Starts the timer."""
        self.began = time.monotonic()

    def on_test_begin(self, logs: Logs = None) -> None:
        """Starts measuring a validation."""
        self.tests.append(Pace(self.limit))

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Waits for the batch, records its time, and stops after enough batches."""
        float((logs or {})["loss"])
        if self.tests[-1].reached(batch + 1):
            self.model.stop_evaluating = True

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Records the time of the epoch."""
        self.took.append(time.monotonic() - self.began)


class HeadPace(Pace):
    """Replaces the `RunCheckpoint` of a head phase, and stops the phase early."""

    def __init__(self, limit: float, group: int) -> None:
        super().__init__(limit)
        self.group = group
        self.head_rows: list[dict[str, float]] = []

    def look(self, step: int, logs: Logs) -> None:
        """Waits for the step, records its time, and stops after enough steps."""
        float((logs or {})["loss"])
        if self.reached(self.marks[-1][1] + self.group):
            raise EnoughError


class EnoughError(Exception):
    """Raised when the head phase has been measured for long enough."""
