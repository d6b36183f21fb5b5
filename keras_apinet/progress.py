"""The progress line on a terminal.

Commands enable it with `lines_shown`; it is off when the package is used as a library.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from keras_apinet.errors import printable

T = TypeVar("T")
# Reading metrics waits for the device, so update rarely.
_EVERY_S = 0.2
_shown: ContextVar[bool] = ContextVar("shown", default=False)
_line: ContextVar[Any] = ContextVar("line", default=None)


@contextlib.contextmanager
def lines_shown(shown: bool) -> Iterator[None]:
    """Enables or disables the progress lines of `phase` on standard error."""
    token = _shown.set(shown)
    try:
        yield
    finally:
        _shown.reset(token)


class Phase:
    """Progress of a phase; call it with the number of units done."""

    def __init__(
        self, line: Any, name: str, total: int | None, unit: str, done: int
    ) -> None:
        self.line, self.name, self.total, self.unit = line, name, total, unit
        self.started, self.first, self.moved = time.monotonic(), done, 0.0
        if line is not None:
            self.task = line.add_task(name, total=total, completed=done, told="")

    def __call__(
        self,
        done: int,
        figures: Callable[[], str] | None = None,
        name: str | None = None,
    ) -> None:
        """Updates the bar, at most a few times per second.

        `figures` returns the text to show instead of the units done; `name` renames the
        phase.
        """
        now, done = time.monotonic(), min(done, self.total or done)
        if self.line is None or (now < self.moved + _EVERY_S and done != self.total):
            return
        self.moved, self.name = now, name or self.name
        told = [figures() if figures else f"{done:,}/{self.total:,}"]
        if rate := (done - self.first) / max(now - self.started, 1e-9):
            told.append(f"{rate:,.0f} {self.unit}/s")
            if self.total and done < self.total:
                told.append(f"{clock((self.total - done) / rate)} left")
        self.line.update(
            self.task, completed=done, description=self.name, told=" ".join(told)
        )


@contextlib.contextmanager
def phase(
    name: str, total: int | None = None, unit: str = "photos", done: int = 0
) -> Iterator[Phase]:
    """Shows a progress line during a phase, and removes it afterwards.

    Yields a function to call with the number of units done; `total` is `None` if
    unknown.
    """
    if not _shown.get():
        yield Phase(None, name, total, unit, done)
        return
    outer = _line.get()
    if outer is not None:  # only show the inner phase
        before = outer.tasks[-1].id
        outer.update(before, visible=False)
        inner = Phase(outer, name, total, unit, done)
        try:
            yield inner
        finally:
            outer.remove_task(inner.task)
            outer.update(before, visible=True)
        return
    line = _opened()
    token = _line.set(line)
    try:
        with line:
            yield Phase(line, name, total, unit, done)
    finally:
        _line.reset(token)


def counted(name: str, things: Sequence[T], unit: str = "photos") -> Iterator[T]:
    """Iterates over things with a progress line."""
    with phase(name, len(things), unit) as shown:
        for done, thing in enumerate(things):
            yield thing
            shown(done + 1)


def _opened() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    def text(what: str) -> TextColumn:
        column = Column(no_wrap=True, overflow="ellipsis")
        return TextColumn(what, markup=False, table_column=column)

    return Progress(
        text("{task.description}"),
        BarColumn(bar_width=None),
        text("{task.fields[told]}"),
        # `--bar` shows it without a terminal, too.
        console=Console(stderr=True, force_terminal=True, highlight=False),
        expand=True,
        transient=True,
        refresh_per_second=4,
        # Print output above the line, unless it is redirected.
        redirect_stdout=sys.stdout.isatty(),
    )


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yields a function that announces steps.

    On a terminal, the progress line shows the latest; otherwise each is printed as a
    line on standard error, separate from results.
    """

    def tell(text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    if not _shown.get():
        yield tell
        return
    with phase("") as shown:
        yield lambda text: shown.line.update(shown.task, description=printable(text))


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"
