"""Report of the images that could not be read, and why, so none is silently lost."""

import json
import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import Literal, NoReturn

from keras_apinet.data.image_data import Split
from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import check_choice
from keras_apinet.files.io import write_atomically

_LOG = logging.getLogger("keras_apinet")
_TOLERATED = 0.01


class ReadingReport:
    """Collects the unreadable images of a split while it is read.

    As a context manager, it replaces the input pipeline's own error with the
    `APINetError` that caused it:

    ```python
    with batches.report:
        model.fit(batches)
    ```

    Args:
        split: The split being read.
        on_error: `"raise"` at the first unreadable image, or `"skip"` it unless more
            than 1 % of the images are unreadable.
        at_least: Number of unreadable images to skip however few images there are.
            Default 0.

    Attributes:
        failed: Maps each unreadable image to the reason.
        error: The error that stopped the reading, or None.
    """

    def __init__(
        self, split: Split, on_error: Literal["raise", "skip"], at_least: int = 0
    ) -> None:
        check_choice("on_error", on_error, ("raise", "skip"))
        self.split = split
        self.on_error, self.at_least = on_error, at_least
        self.failed: dict[str, str] = {}
        self.error: APINetError | None = None
        self._bad: set[int] = set()
        self._told = 0
        self._lock = threading.Lock()

    def is_bad(self, index: int) -> bool:
        """Whether image number `index` is known to be unreadable."""
        return index in self._bad

    def add(self, index: int, error: APINetError) -> None:
        """Records an unreadable image.

        Raises:
            APINetError: `error` itself for `"raise"`, or, if too many images are
                unreadable, an error that names an example.
        """
        with self._lock:
            self._bad.add(index)
            self.failed[self.split.reference(index)] = str(error)
            if self.on_error == "raise":
                self.stop(error)
            if len(self._bad) > max(self.at_least, _TOLERATED * len(self.split)):
                self.stop(
                    APINetError(
                        f"{len(self._bad)} of {len(self.split)} images cannot be read, "
                        f"more than {_TOLERATED:.0%}; one of them: {error}"
                    )
                )

    def check(self) -> None:
        """Raises the error that stopped the reading, if any."""
        if self.error is not None:
            raise self.error

    def stop(self, error: APINetError) -> NoReturn:
        """Stores `error` for the consumer of the pipeline, and raises it."""
        self.error = error
        raise error

    def tell(self) -> None:
        """Logs, at the end of an epoch, how many images have been left out so far."""
        if len(self.failed) > self._told:
            self._told = len(self.failed)
            _LOG.warning("%s", self.summary())

    def summary(self) -> str:
        """Summarizes in one line how many images were left out, and the first one."""
        first = next(iter(self.failed.values()), "")
        return (
            f"{len(self.failed)} of {len(self.split)} images could not be read and "
            f"were left out. {first}".strip()
        )

    def save(self, path: str | Path) -> None:
        """Writes the unreadable images and reasons to a JSON file, atomically."""
        write_atomically(path, json.dumps(self.failed, indent=2))

    def __enter__(self) -> "ReadingReport":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Steps are prefetched in parallel, so another step may have hit the error.
        if self.error is not None and (value is None or isinstance(value, Exception)):
            raise self.error from value
