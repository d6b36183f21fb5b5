"""The command line: `keras-apinet COMMAND ...`.

Each module named in `COMMANDS` defines one command with `HELP`,
`add_arguments(parser)` and `run(args) -> int`, or several in its own `COMMANDS`. No
module imports Keras before its command runs, so `--help` is instant. The optional
`prepare(args)` runs before the backend starts and returns true if the command is done.
`STARTS_KERAS = False` means that the command starts Keras itself, if it needs it.
"""

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from keras_apinet.cli.startup import (
    close_output,
    messages_aside,
    open_streams,
    start_backend,
)
from keras_apinet.errors import APINetError, did_you_mean, printable, reason
from keras_apinet.files.bounds import shown
from keras_apinet.files.schema import NEW_NAMES
from keras_apinet.progress import lines_shown
from keras_apinet.version import __version__

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "export",
    "compare",
    "compare-runs",
    "list",
    "report",
    "card",
    "data",
    "add",
    "remove",
    "merge",
    "advise",
)
# Modules not named after their commands; `list` would shadow the built-in.
_HOMES = {"list": "listing", **dict.fromkeys(("add", "remove", "merge"), "classes")}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Prints a one-sentence error and exits with code 2."""
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(_failed(f"{message}{end} See {self.prog} --help."))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse ignores write errors, such as a full disk.
        print(message, end="", file=file or sys.stderr)


def parser() -> argparse.ArgumentParser:
    """Returns the parser for the whole command line."""
    root = _Parser(
        prog="keras-apinet",
        allow_abbrev=False,
        description="Train an image backbone to tell look-alike classes apart, and "
        "export it as a plain single-image classifier.",
        epilog="Select the backend with KERAS_BACKEND=tensorflow|jax|torch "
        "(default: tensorflow).",
    )
    root.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        home = _HOMES.get(name, name).replace("-", "_")
        module: Any = importlib.import_module(f"keras_apinet.cli.{home}")
        module = getattr(module, "COMMANDS", {}).get(name, module)
        # Unknown options get a suggestion, so prefixes must not be expanded.
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_arguments(command)
        command.add_argument(
            "--debug",
            action="store_true",
            help="show tracebacks and all messages from libraries",
        )
        command.set_defaults(module=module, parser=command)
    return root


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses arguments; exits with code 2 and a suggestion if one is unknown."""
    root = parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["compare-runs"]:  # argparse drops `--`
        words = ["--against" if word == "--" else word for word in words]
    for word in words[:1]:
        if word not in COMMANDS and not word.startswith("-"):
            hint = did_you_mean(word, COMMANDS)
            root.error(f"there is no command {shown(word)}{hint}")
    args, unknown = root.parse_known_args(words)
    if unknown:
        old = unknown[0].split("=")[0].removeprefix("--").replace("-", "_")
        if args.command == "train" and old in NEW_NAMES:
            new = NEW_NAMES[old].replace("_", "-")
            args.parser.error(f"{shown(unknown[0])} is now called '--{new}'")
        known = re.findall(r"--[a-z][a-z0-9-]*", args.parser.format_help())
        args.parser.error(
            f"{args.command} has no argument {shown(unknown[0])}"
            + did_you_mean(unknown[0].split("=")[0], known)
        )
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 on success, 1 for a bug in this package, 2 for a user error or a file system
        error, 130 if interrupted, 141 if the reader of its output is gone.
    """
    open_streams()
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _run(arguments, debug)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `keras-apinet ... | head`
        close_output()
        return 141
    except OSError as error:
        if debug:
            close_output()
            raise
        return _told(error)


def program() -> NoReturn:
    """Entry point of `keras-apinet`: runs `main` and exits.

    If training ends early, TensorFlow may still be reading batches. A normal exit
    would then deadlock, so a failed command exits with `os._exit`.
    """
    open_streams()
    if "--debug" not in sys.argv:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        messages_aside()
    code = main()
    if code:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(0)


def _run(arguments: Sequence[str] | None, debug: bool) -> int:
    try:
        args = parse(arguments)
        with _stopping_tidily():
            if hasattr(args.module, "prepare") and args.module.prepare(args):
                return 0
            if getattr(args.module, "STARTS_KERAS", True):
                start_backend()
            with lines_shown(sys.stderr.isatty()):
                return int(args.module.run(args))
    except KeyboardInterrupt:
        return _failed("stopped", 130)
    except OSError:
        raise
    except Exception as error:
        if debug:
            raise
        return _told(error)


def _told(error: Exception) -> int:
    """Prints an error as one sentence and returns the exit code."""
    if isinstance(error, APINetError):
        return _failed(str(error))
    if isinstance(error, MemoryError):
        return _failed(
            "There is not enough memory; try fewer or smaller images at a time."
        )
    if isinstance(error, OSError):
        names = [shown(name) for name in (error.filename, error.filename2) if name]
        what = " and ".join(names) or "The output, or a file,"
        return _failed(f"{what} cannot be read or written ({reason(error)}).")
    if "embedded null" in str(error) or isinstance(error, UnicodeEncodeError):
        return _failed("A path contains characters that are not allowed in file names.")
    if "Symlink loop" in str(error):  # from Path.resolve before Python 3.13
        return _failed(f"{reason(error)}: the link points to itself.")
    return _failed(
        f"This is a bug in keras-apinet ({type(error).__name__}: {reason(error)}); "
        "please report it with the output of the same command with --debug.",
        1,
    )


def _failed(message: str, code: int = 2) -> int:
    close_output()
    prefix = "keras-apinet: " if code == 130 else "keras-apinet: error: "
    text = printable(message)
    if len(text) > 1500:
        text = f"{text[:1000]} ... {text[-400:]}"
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        print(prefix + text, file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def _stopping_tidily() -> Iterator[None]:
    """Handles SIGTERM and SIGHUP like Ctrl-C, so that partial files are removed."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # nohup ignores SIGHUP; keep it ignored.
            if number and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
