"""What pages and plots need beyond the core: Jinja2, matplotlib and SciPy."""

import functools
import importlib
from typing import Any

from keras_apinet.errors import APINetError, printable

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
    environment.filters["percent"] = lambda x: _NONE if x is None else f"{x:.1%}"
    environment.filters["decimal"] = lambda x: _NONE if x is None else f"{x:.3f}"
    return environment
