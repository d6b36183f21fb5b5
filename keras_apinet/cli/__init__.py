"""The command line: `keras-apinet COMMAND ...`.

Each module named in `COMMANDS` is one command with `HELP`, `add_arguments(parser)` and
`run(args) -> int`; none imports Keras before it runs, so that `--help` is instant. What
has to happen before the backend starts is in `prepare(args)`; true means that this was
all. `STARTS_KERAS = False` says that the command decides itself.
"""

import argparse
import contextlib
import difflib
import importlib
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from keras_apinet.errors import APINetError
from keras_apinet.version import __version__

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "export",
    "compare",
    "report",
    "card",
    "data",
)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="keras-apinet",
        description="Teach an image backbone to tell look-alike classes apart, and "
        "ship it as a plain single-image classifier.",
        epilog="The backend is chosen by KERAS_BACKEND=tensorflow|jax|torch "
        "(default: tensorflow).",
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"keras_apinet.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.add_argument(
            "--debug", action="store_true", help="show the traceback of an error"
        )
        command.set_defaults(module=module, options=command.format_help)
    return root


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; an unknown one ends it with exit code 2 and the nearest known."""
    root = parser()
    args, unknown = root.parse_known_args(arguments)
    if unknown:
        known = re.findall(r"--[a-z][a-z0-9-]*", args.options())
        near = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
        root.error(
            f"{args.command} has no argument {unknown[0]!r}; "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"See keras-apinet {args.command} --help."
        )
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if it did what was asked, 2 for a mistake in the request."""
    args = parse(arguments)
    try:
        with _stopping_tidily():
            if hasattr(args.module, "prepare") and args.module.prepare(args):
                return 0
            if getattr(args.module, "STARTS_KERAS", True):
                from keras_apinet.cli.startup import start_backend

                start_backend()
            return int(args.module.run(args))
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("keras-apinet: stopped", file=sys.stderr)
        return 130
    except (APINetError, OSError) as error:
        if args.debug:
            raise
        print(f"keras-apinet: error: {error}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _stopping_tidily() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end a command as Ctrl-C does: nothing is left behind."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # Under nohup, SIGHUP is ignored, and stays so.
            if number and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
