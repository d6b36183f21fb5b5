"""Sampling of class-balanced batches: P classes x K images, by seed, epoch and step."""

import math
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import (
    CLASSES_PER_BATCH,
    IMAGES_PER_CLASS,
    PROCESSES,
    STEPS,
    check_choice,
)

CLASS_SAMPLING = {"uniform": 0.0, "sqrt": 0.5, "proportional": 1.0}
_GOLDEN_RATIO = (5**0.5 - 1) / 2


class BatchPlan:
    """Draws class-balanced batches: P classes x K images, from (seed, epoch, step).

    The plan is stateless, so steps can be requested in any order.

    - A block holds `classes_per_batch` different classes with `images_per_class`
      images each, class by class. `num_replicas` blocks make up a global batch, whose
      classes all differ if there are at least `num_replicas * classes_per_batch`.
    - Every image of a class is used once before any is reused, across all steps and
      epochs. No image appears twice in a batch unless its class has fewer than
      `images_per_class` images, which are then repeated as evenly as possible.
    - In each epoch, every class appears according to its share (rounded up or down,
      alternating over the epochs), so rare classes are never starved.

    Args:
        labels: `[n]` integers, the class of every image. Classes without images are
            ignored.
        classes_per_batch: Number P of different classes per block. Reduced, with a
            warning, if there are fewer.
        images_per_class: Number K of images per class in a block.
        seed: Integer seed for all sampling. Default 0.
        epoch_steps: Steps per epoch. Default: images // images per global batch, but
            at least 1.
        class_sampling: How often a class is drawn: `"uniform"` (default, all classes
            equally often), `"proportional"` (to its number of images) or `"sqrt"` (to
            the root of that number); never more than once per block.
        num_replicas: Number of blocks per global batch. Default 1.

    Raises:
        APINetError: If there are no images, a number is below 1, or `class_sampling`
            is unknown.

    >>> plan = BatchPlan([0, 0, 0, 1, 1, 2], classes_per_batch=2, images_per_class=2)
    >>> plan.epoch_steps
    1
    >>> plan.indices(epoch=0, step=0).shape
    (4,)
    """

    def __init__(
        self,
        labels: ArrayLike,
        classes_per_batch: int,
        images_per_class: int,
        *,
        seed: int = 0,
        epoch_steps: int | None = None,
        class_sampling: str = "uniform",
        num_replicas: int = 1,
    ) -> None:
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels):
            raise APINetError(
                "There are no images to draw batches from: labels must hold one class "
                f"per image, but have shape={labels.shape}; check the source."
            )
        CLASSES_PER_BATCH.check("classes_per_batch", classes_per_batch)
        IMAGES_PER_CLASS.check("images_per_class", images_per_class)
        STEPS.check("epoch_steps", 1 if epoch_steps is None else epoch_steps)
        PROCESSES.check("num_replicas", num_replicas)
        check_choice("class_sampling", class_sampling, CLASS_SAMPLING)
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) < classes_per_batch:
            warnings.warn(
                f"classes_per_batch={classes_per_batch} is more than the "
                f"{len(classes)} classes there are: using {len(classes)}.",
                stacklevel=2,
            )
        self.seed = seed
        self.class_sampling = class_sampling
        self.classes_per_batch = min(classes_per_batch, len(classes))
        self.images_per_class = images_per_class
        self.num_replicas = num_replicas
        self.batch_size = num_replicas * self.classes_per_batch * images_per_class
        self.epoch_steps = epoch_steps or max(1, len(labels) // self.batch_size)
        self._counts = counts
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._by_class = np.argsort(labels, kind="stable")
        # With too few classes for a global batch without repetition, each block is
        # drawn like a separate batch.
        whole = num_replicas * self.classes_per_batch <= len(classes)
        self._rows = self.classes_per_batch * (num_replicas if whole else 1)
        self._columns = self.epoch_steps * (1 if whole else num_replicas)
        self._quotas = self._shares(
            counts.astype(np.float64) ** CLASS_SAMPLING[class_sampling]
        )
        self._deal = lru_cache(maxsize=2)(self._deal_epoch)

    def indices(
        self, epoch: int, step: int, part: int = 0, parts: int = 1
    ) -> NDArray[np.int64]:
        """Returns the images of one global batch, block by block, class by class.

        Args:
            epoch: Epoch, counted from 0.
            step: Step, counted from 0; `epoch_steps` and above continue into the next
                epochs.
            part: Part of the batch, counted from 0, for one process. Default 0.
            parts: Number of equal parts, each of whole blocks. Default 1.

        Returns:
            `[num_replicas / parts * P * K]` positions in `labels`.

        Raises:
            APINetError: If the blocks cannot be divided evenly into the parts.
        """
        if parts < 1 or self.num_replicas % parts or not 0 <= part < parts:
            raise APINetError(
                f"num_replicas={self.num_replicas} blocks cannot be shared by "
                f"{parts} processes, of which this is number {part}; use a multiple "
                "of the number of processes, and a process number below it."
            )
        epoch, step = epoch + step // self.epoch_steps, step % self.epoch_steps
        classes, turns = self._deal(epoch)
        blocks = self._columns // self.epoch_steps
        rows = slice(step * blocks, (step + 1) * blocks)
        hands = np.stack([classes[rows].ravel(), turns[rows].ravel()], axis=1)
        size = len(hands) // parts
        return np.concatenate(
            [
                self._by_class[self._starts[c] + self._hand(c, turn)]
                for c, turn in hands[part * size : (part + 1) * size].tolist()
            ]
        )

    def _shares(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes expected class counts per epoch, at most one per column."""
        slots, free = float(self._rows * self._columns), np.ones(len(weights), bool)
        quotas = np.full(len(weights), float(self._columns))
        while free.any():
            left = slots - self._columns * np.count_nonzero(~free)
            shares = left * weights / weights[free].sum()
            over = free & (shares > self._columns)
            if not over.any():
                quotas[free] = shares[free]
                break
            free &= ~over
        return quotas

    def _appearances(self, epochs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Counts how often each class appears before epoch number `epochs`, and in it.

        Uses systematic rounding: class c takes the integers between cumulative sums of
        the shares, shifted by a phase that steps evenly through [0, 1). The counts of
        earlier epochs follow from the sorted phases, without a replay.
        """
        order = np.random.default_rng([self.seed, 1]).permutation(len(self._quotas))
        sums = np.cumsum(self._quotas[order])
        # The last sum is an integer; rounding must not lose its last slot.
        sums[-1] = self._rows * self._columns
        start = np.random.default_rng([self.seed, 2]).random()
        phases = np.mod(start + np.arange(epochs + 1) * _GOLDEN_RATIO, 1.0)
        whole = np.floor(sums).astype(np.int64)
        gaps = 1.0 - (sums - whole)
        past = np.sort(phases[:-1])
        before = epochs * whole + (epochs - np.searchsorted(past, gaps, side="left"))
        now = whole + (phases[-1] >= gaps)
        result = np.empty((2, len(order)), np.int64)
        result[0, order] = np.diff(before, prepend=0)
        result[1, order] = np.diff(now, prepend=0)
        return result[0], result[1]

    def _deal_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the class of every column of an epoch, and its earlier appearances.

        The slots, sorted by class, fill the table row by row, each row in a random
        order of columns. If a class continues from one row into the next, its columns
        there are chosen among those it does not occupy yet.
        """
        before, now = self._appearances(epoch)
        rng = np.random.default_rng([self.seed, 3, epoch])
        order = rng.permutation(len(now))
        slots = np.repeat(order, now[order]).reshape(self._rows, self._columns)
        table = np.empty((self._columns, self._rows), np.int64)
        for row, classes in enumerate(slots):
            columns = rng.permutation(self._columns)
            if row and classes[0] == slots[row - 1, -1]:
                taken = table[:, row - 1] == classes[0]
                new = int(np.count_nonzero(classes == classes[0]))
                columns = _move_up(columns, taken, new)
            table[columns, row] = classes
        table = rng.permuted(table, axis=1)
        flat = table.ravel()
        by_class = np.argsort(flat, kind="stable")
        first = np.concatenate([[0], np.cumsum(now)[:-1]])
        turns = np.empty(len(flat), np.int64)
        rank = np.arange(len(flat)) - first[flat[by_class]]
        turns[by_class] = before[flat[by_class]] + rank
        return table, turns.reshape(table.shape)

    def _hand(self, class_: int, turn: int) -> NDArray[np.int64]:
        """Returns the K images drawn from a class, as positions in the class.

        Images come from successive shuffled passes over the class. A draw that extends
        into the next pass must not repeat an image, so the next pass starts with images
        absent from the end of this one. If the class is at least twice as large as a
        draw, this leaves the end of a pass unchanged, so no earlier pass is needed. A
        smaller class keeps its order until draws and passes end together.
        """
        n, k = int(self._counts[class_]), self.images_per_class
        if n < 2 * k:
            hands = n // math.gcd(n, k)
            order = self._shuffle(class_, turn // hands, n)
            return order[(turn % hands * k + np.arange(k)) % n]
        first, offset = divmod(turn * k, n)
        order = self._pass(class_, first, n)
        hand = order[offset : offset + k]
        if len(hand) < k:
            rest = self._pass(class_, first + 1, n)[: k - len(hand)]
            hand = np.concatenate([hand, rest])
        return hand

    def _pass(self, class_: int, number: int, n: int) -> NDArray[np.int64]:
        order = self._shuffle(class_, number, n)
        over = number * n % self.images_per_class
        if not over:
            return order
        taken = np.zeros(n, bool)
        taken[self._shuffle(class_, number - 1, n)[n - over :]] = True
        return _move_up(order, taken, self.images_per_class - over)

    def _shuffle(self, class_: int, number: int, n: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, 4, class_, number])
        order: NDArray[np.int64] = rng.permutation(n)
        return order


def _move_up(
    order: NDArray[np.int64], taken: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Moves the first `count` members of `order` that are not `taken` to the front."""
    chosen = np.flatnonzero(~taken[order])[:count]
    return np.concatenate([order[chosen], np.delete(order, chosen)])
