"""Timing in turns, so that fluctuations of the machine affect all candidates alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def in_turns(
    runs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """The times of each function in seconds, one per round.

    Args:
        runs: Functions to time; each must return only when its work is done.
        rounds: Number of timed rounds. The order is reversed in every other round.
        warm_up: Number of untimed rounds before these, for compilation.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            runs[name]()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - began)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """The median time of each function."""
    return {name: statistics.median(found) for name, found in times.items()}
