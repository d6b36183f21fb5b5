"""Bounded numbers for files, Python arguments and the command line.

Also checks arguments that take one of a few strings.
"""

import argparse
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_apinet.errors import APINetError, did_you_mean


@dataclass(frozen=True)
class Number:
    """A bounded number in a file, a Python argument or the command line."""

    kind: type
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def fits(self, value: Any) -> bool:
        """Whether a value is such a number; NaN, infinity and `True` never are."""
        kind: Any = numbers.Integral if self.kind is int else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
        number: Any = value
        return (
            # Integers are always finite, and some are too large for `isfinite`.
            (isinstance(number, numbers.Integral) or math.isfinite(number))
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        words = "a whole number" if self.kind is int else "a number"
        bounds = [
            f"{word} {limit:,}" if isinstance(limit, int) else f"{word} {limit:g}"
            for word, limit in (
                ("at least", self.low),
                ("above", self.above),
                ("at most", self.high),
                ("below", self.below),
            )
            if limit is not None
        ]
        return " ".join([words, " and ".join(bounds)]).strip()

    def check(self, name: str, value: Any) -> None:
        """Checks an argument; the error has its name, its value and its bounds."""
        if not self.fits(value):
            raise APINetError(f"{name}={shown(value)} must be {self}.")

    def __call__(self, text: str) -> Any:
        """Parses a command-line option, as a `type` for `argparse`."""
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if not self.fits(value):
            raise argparse.ArgumentTypeError(f"{shown(text)} must be {self}")
        return value


# Seeds that NumPy and every backend accept.
SEED = Number(int, 0, 2**32 - 1)
IMAGE_SIZE = Number(int, 1, 4096)
CLASSES_PER_BATCH = Number(int, 1, 4096)
IMAGES_PER_CLASS = Number(int, 1, 1024)
STEPS = Number(int, 1, 10_000_000)
# Rows and columns of a contact sheet.
SHEET = Number(int, 1, 64)
BATCH_SIZE = Number(int, 1, 4096)
PHOTOS = Number(int, 1, 1_000_000)
BOOTSTRAP = Number(int, 0, 100_000)
TEMPERATURE = Number(float, above=0, high=1e6)
TOP = Number(int, 1, 1_000_000)
SHARE = Number(float, 0, 1)
LOGIT_SHARE = Number(float, 0)
FRACTION = Number(float, 0, below=1)
KEEP = Number(float, above=0, below=1)
DEVICES = Number(int, 1, 4096)
PROCESSES = Number(int, 1, 65_536)
PROCESS_INDEX = Number(int, 0, 65_535)
CLASSES = Number(int, 2)
COUNT = Number(int, 0, 2**53)
MINUTES = Number(float, above=0, high=1e6)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Checks an argument that takes one of a few strings; the error lists them all."""
    known = tuple(choices)
    if value not in known:
        raise APINetError(
            f"{name}={shown(value)} is not one of {', '.join(known)}"
            + did_you_mean(str(value), known)
        )


def shown(value: Any) -> str:
    """Formats a value for an error, shortened if necessary."""
    if isinstance(value, (dict, list)):
        return f"<{'an object' if isinstance(value, dict) else 'a list'}>"
    if isinstance(value, int) and value.bit_length() > 200:
        return "<a number of more than 60 digits>"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-1]}"
