"""What pages and plots need beyond the core: Jinja2, matplotlib and SciPy."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from keras_apinet.errors import APINetError, printable
from keras_apinet.shares import decimal, interval, percent, probability

_NONE = "\N{EN DASH}"


def need(*modules: str) -> None:
    """Checks that optional packages are there.

    Raises:
        APINetError: If one is missing, with the command that installs it.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise APINetError(
                f"This needs the package {module!r}, which is not installed; install "
                "it with: pip install 'keras-apinet[report]'"
            ) from error


def _known(form: Callable[[float], str], value: float | None) -> str:
    return _NONE if value is None else form(value)


def _ends(figure: dict[str, Any], plain: bool = False) -> str:
    return interval(figure["low"], figure["high"], decimal if plain else percent)


def _shown(value: Any) -> Any:
    """Names of files and classes as they are safe to show; markup stays as it is."""
    return printable(value) if type(value) is str else value


@functools.cache
def templates() -> Any:
    """The Jinja2 environment of the package's templates; HTML is escaped."""
    need("jinja2")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_apinet.evaluate"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for form in (percent, probability, decimal):
        environment.filters[form.__name__] = functools.partial(_known, form)
    environment.filters["ends"] = _ends
    return environment
