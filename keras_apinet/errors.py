"""The exception for user errors, and text that is safe to display."""

import difflib
import unicodedata
from collections.abc import Iterable

# Joiners inside emoji and Persian or Indic words, which neither move the cursor nor
# change the direction of the surrounding text.
_JOINERS = "\u200c\u200d"


class APINetError(ValueError):
    """A user error, reported in one sentence with the value and how to fix it.

    The command line prints its message and exits with code 2; in Python it is an
    ordinary `ValueError`.
    """


def printable(text: object, keep: str = "") -> str:
    r"""Escapes everything that controls a terminal, breaks a line or changes direction.

    Control codes, line breaks of any kind, marks that change the writing direction,
    invisible characters and bytes that are not UTF-8 become escapes such as `\x1b`,
    except for those in `keep`. Applying it twice has no further effect.

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
    """Shortens a name to fit a plot or a column."""
    text = printable(name)
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def distinct_names(names: Iterable[object]) -> tuple[str, ...]:
    """Returns class names in printable form; duplicates are an error."""
    shown = tuple(printable(name) for name in names)
    first: dict[str, int] = {}
    for position, name in enumerate(shown):
        if first.setdefault(name, position) != position:
            raise APINetError(
                f"The classes {first[name]} and {position} are both called {name!r}; "
                "give each class a unique name, or the images of both the same label."
            )
    return shown


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> str:
    """Ends a sentence about an unknown word by suggesting the closest known words.

    >>> did_you_mean("resnet5", ["resnet50", "vgg16"])
    "; did you mean 'resnet50'?"
    >>> did_you_mean("bird", ["resnet50"])
    '.'
    """
    near = difflib.get_close_matches(word, known, most, cutoff=0.5)
    return f"; did you mean {', '.join(map(repr, near))}?" if near else "."


def reason(error: BaseException) -> str:
    """Returns the cause of an error as one short line, to be used within a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return printable(lines[0])[:300] if lines else type(error).__name__
