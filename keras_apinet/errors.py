"""The one exception that users are meant to read, and text that is safe to show."""

import difflib
import unicodedata
from collections.abc import Iterable

# Joiners inside emoji and Persian or Indic words: they neither move the cursor nor
# turn the direction of what stands around them.
_JOINERS = "\u200c\u200d"


class APINetError(ValueError):
    """A mistake in what the user gave: one sentence with the value and the way out.

    The command line prints its message and exits with code 2; in Python it is an
    ordinary `ValueError`.
    """


def printable(text: object, keep: str = "") -> str:
    r"""Text in which nothing steers a terminal, breaks a line or turns its direction.

    Control codes, line breaks of every kind, marks that change the direction of
    writing, invisible characters and bytes that are not UTF-8 become escapes such as
    `\x1b`, but for those in `keep`. Applied twice it changes nothing more.

    >>> print(printable("wren\x1b[31m\u2028\u202e"))
    wren\x1b[31m\u2028\u202e
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        and c not in _JOINERS
        and c not in keep
        else c
        for c in text
    )


def short(name: object, length: int = 30) -> str:
    """A name that fits a plot or a column."""
    text = printable(name)
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def distinct_names(names: Iterable[object]) -> tuple[str, ...]:
    """The names of classes as they are shown; two of one name are an error."""
    shown = tuple(printable(name) for name in names)
    first: dict[str, int] = {}
    for position, name in enumerate(shown):
        if first.setdefault(name, position) != position:
            raise APINetError(
                f"The classes {first[name]} and {position} are both called {name!r}: "
                "give each class its own name, or the images of both one label."
            )
    return shown


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> str:
    """The end of a sentence about an unknown word: the nearest known ones.

    >>> did_you_mean("resnet5", ["resnet50", "vgg16"])
    "; did you mean 'resnet50'?"
    >>> did_you_mean("bird", ["resnet50"])
    '.'
    """
    near = difflib.get_close_matches(word, known, most, cutoff=0.5)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else "."


def reason(error: BaseException) -> str:
    """Why something failed, in one short line: for the middle of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:300] if lines else type(error).__name__
