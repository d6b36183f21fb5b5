"""Timing things in turns, so that a machine's moods slow all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def in_turns(
    runs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds that each takes, round after round.

    Args:
        runs: What to time; each call has to return only when its work is done.
        rounds: Rounds that count. Who is first in one is last in the next.
        warm_up: Rounds before those, in which things compile.
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
    """The median of each."""
    return {name: statistics.median(found) for name, found in times.items()}
