"""`keras-apinet train`."""

import argparse
import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from keras_apinet.cli.startup import BACKENDS, check_backend, keep_messages
from keras_apinet.errors import APINetError, printable
from keras_apinet.files.bounds import DEVICES, MINUTES, PROCESS_INDEX, PROCESSES
from keras_apinet.train.recipe import Recipe, kind_of

T = TypeVar("T")
HELP = "train a model and save everything in a run folder"
# Listed first in --help, because they are used most often.
_FIRST = ("data", "backbone", "weights", "image_size", "epochs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one option for each setting of the recipe."""
    # argparse's default would list some fifty options.
    parser.usage = (
        "keras-apinet train [RECIPE.toml] --out FOLDER [OPTION ...]\n"
        "       keras-apinet train --resume RUN\n"
        "       keras-apinet train [RECIPE.toml] --print-recipe [OPTION ...]"
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE.toml",
        help="settings to start from; command-line options override them",
    )
    parser.add_argument("--out", metavar="FOLDER", help="run folder to create")
    parser.add_argument("--resume", metavar="RUN", help="continue an interrupted run")
    parser.add_argument(
        "--force",
        action="store_true",
        help="resume even if settings, data or versions have changed; with "
        "--find-rate, replace an existing plot",
    )
    parser.add_argument(
        "--find-rate",
        metavar="FILE",
        help="run a learning-rate range test, plot the losses to FILE (.svg or .png) "
        "and suggest a rate; no model is saved",
    )
    parser.add_argument(
        "--minutes",
        type=MINUTES,
        metavar="N",
        help="measure the time per step and choose the number of epochs (and, if few "
        "fit, fewer views and head epochs) for a total of N minutes",
    )
    parser.add_argument(
        "--print-recipe",
        action="store_true",
        help="print the full recipe as TOML, without training",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a setting of the recipe; same as --NAME VALUE",
    )
    settings = parser.add_argument_group("settings of the recipe")
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    for name in dict.fromkeys([*_FIRST, *fields]):
        field = fields[name]
        kind, _ = kind_of(name)
        text = field.metadata["text"]
        choices = field.metadata["choices"]
        if choices and not any(choice in text for choice in choices):
            text += f": {', '.join(choices)}"
        if field.default is not None and "default" not in text and kind is not bool:
            text += f" (default: {field.default})"
        option: dict[str, Any] = {"help": text.replace("%", "%%")}
        if kind is bool:
            option["action"] = argparse.BooleanOptionalAction
        else:
            option["metavar"] = {int: "N", float: "X", str: "NAME"}[kind]
            option["type"] = kind  # Recipe checks the bounds
        # Defaults are suppressed, so that they do not override the recipe file.
        settings.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, **option
        )
    machine = parser.add_argument_group("devices")
    machine.add_argument(
        "--devices",
        type=DEVICES,
        metavar="N",
        help="devices that share each batch (default: 1)",
    )
    machine.add_argument(
        "--model-devices",
        type=DEVICES,
        default=1,
        metavar="N",
        help="devices that share the classifier, for very many classes; JAX only",
    )
    machine.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0; JAX only"
    )
    machine.add_argument("--processes", type=PROCESSES, default=1, metavar="N")
    machine.add_argument("--process-index", type=PROCESS_INDEX, default=0, metavar="I")
    output = parser.add_mutually_exclusive_group()
    for mode, text in (
        ("bar", "show a progress bar even if the output is not a terminal"),
        ("plain", "print one line per epoch"),
        ("quiet", "print only errors"),
    ):
        output.add_argument(
            f"--{mode}", dest="verbose", action="store_const", const=mode, help=text
        )


def _named_as_options(command: Callable[[argparse.Namespace], T]) -> Any:
    """Rewrites `image_size=3` as `--image-size 3` in errors without a recipe file."""

    @functools.wraps(command)
    def named(args: argparse.Namespace) -> T:
        try:
            return command(args)
        except APINetError as error:
            if args.recipe:
                raise
            names = "|".join(["minutes", *(f.name for f in dataclasses.fields(Recipe))])
            raise APINetError(
                re.sub(
                    rf"(?<![\w.\-/\\'\"])({names})=",
                    lambda found: f"--{found[1].replace('_', '-')} ",
                    str(error),
                )
            ) from error

    return named


@_named_as_options
def prepare(args: argparse.Namespace) -> bool:
    """Reads the recipe before the backend starts, because it may name a backend.

    Returns true if the command is done, because it only prints the recipe.
    """
    from keras_apinet.data.loading import check_source
    from keras_apinet.train.recipe_files import (
        parse_assignments,
        read_settings,
        to_toml,
    )

    given = dict(vars(args))
    names = {field.name for field in dataclasses.fields(Recipe)}
    args.changes = changes = {k: v for k, v in given.items() if k in names}
    changes |= parse_assignments(args.set)
    args.started, given["epochs"] = time.monotonic(), "epochs" in changes
    for name, *others in (
        ("minutes", "epochs", "resume", "find_rate", "print_recipe"),
        ("resume", "find_rate", "print_recipe"),
    ):
        if given[name] and (other := next((n for n in others if given[n]), None)):
            other = other.replace("_", "-")
            raise APINetError(f"--{name} and --{other} cannot be combined; omit one.")
    if args.resume:
        if args.recipe or args.out:
            raise APINetError(
                f"--resume {args.resume} uses the folder and recipe of the run; omit "
                "--out and the recipe file, or omit --resume."
            )
        _choose_backend_of_run(args.resume, changes.get("backend"))
        return False
    stored = read_settings(args.recipe) if args.recipe else {}
    args.settings = Recipe.of({**stored, **changes}, args.recipe or "the recipe")
    if args.print_recipe:
        print(to_toml(args.settings), end="")
        return True
    if args.find_rate:
        from keras_apinet.files.outputs import check_output, picture_kind

        kind = picture_kind(args.find_rate, drawn=True)
        check_output(args.find_rate, kind, args.force)
    elif not args.out:
        raise APINetError("A run folder is required; give --out FOLDER.")
    elif not args.process_index:
        from keras_apinet.runs import check_new

        check_new(args.out)
    if args.settings.backend:
        _choose_backend(args.settings.backend, "This recipe is")
    check_source(args.settings.data, args.settings.data_dir)
    return False


def _choose_backend_of_run(folder: str, changed: str | None) -> None:
    """Selects the recipe's backend, or the one the run started with."""
    from keras_apinet.runs import Run

    run = Run.open(folder)
    asked = changed or run.settings.get("backend")
    if asked:
        _choose_backend(asked, f"The run in {folder!r} is")
    elif not os.environ.get("KERAS_BACKEND"):
        began = run.description["versions"].get("backend")
        if began in BACKENDS:
            _choose_backend(began, f"The run in {folder!r} is")


def _choose_backend(name: str, whose: str) -> None:
    check_backend(name, f"{whose} for the backend {name!r}, which")
    given = os.environ.get("KERAS_BACKEND") or name
    if given != name:
        raise APINetError(
            f"{whose} for the backend {name!r}, and KERAS_BACKEND={given}; unset "
            f"the variable, or set KERAS_BACKEND={name}."
        )
    os.environ["KERAS_BACKEND"] = name


@_named_as_options
def run(args: argparse.Namespace) -> int:
    """Trains a model, then prints where the results are."""
    from keras_apinet.train import Budget, Devices, resume, train
    from keras_apinet.train.callbacks import TrainingStopped
    from keras_apinet.train.devices import start_processes

    devices = Devices(
        args.devices,
        args.model_devices,
        args.coordinator,
        args.processes,
        args.process_index,
    )
    if args.find_rate:
        return _find_rate(args, devices)
    start_processes(devices)
    verbose = args.verbose or "auto"
    try:
        if args.resume:
            done = resume(args.resume, args.changes, verbose, devices, args.force)
        else:
            budget = args.minutes and Budget(args.minutes, args.started)
            done = train(args.settings, args.out, verbose, devices, budget)
    except TrainingStopped:
        folder = args.resume or args.out
        print(
            "Stopped and saved. Continue with: keras-apinet train --resume "
            + printable(folder)
        )
        return 130
    finally:
        keep_messages(args.resume or args.out)
    if verbose != "quiet" and not args.process_index:
        folder = printable(done.folder)
        print(
            f"Run folder: {folder}\n"
            f"Next: keras-apinet evaluate {folder}\n"
            f"      keras-apinet predict {folder} PHOTO ...\n"
            f"      keras-apinet export {folder} --format tflite"
        )
    return 0


def _find_rate(args: argparse.Namespace, devices: Any) -> int:
    """Runs a learning-rate range test, plots it and suggests a rate."""
    from pathlib import Path

    from keras_apinet.files.outputs import write_output
    from keras_apinet.progress import lines_shown
    from keras_apinet.runs import Run
    from keras_apinet.train.callbacks import RunCheckpoint
    from keras_apinet.train.checkpoints import Progress
    from keras_apinet.train.devices import place
    from keras_apinet.train.head_phase import train_head
    from keras_apinet.train.optimization import suggested_rate, try_rates
    from keras_apinet.train.progress import Console, draw_rates
    from keras_apinet.train.setup import own_globals, prepare

    recipe, say = args.settings, Console(args.verbose or "auto")
    with own_globals(), place(devices) as placement, lines_shown(say.bar):
        setup = prepare(recipe, placement, say)
        if recipe.head_phase_epochs:  # the rate is for the phase after it
            watch = RunCheckpoint(Run(Path(), {}), recipe, Progress(), writes=False)
            train_head(setup, recipe.head_phase_epochs, watch)
        rates, losses = try_rates(setup)
    chosen = suggested_rate(rates, losses)
    picture = draw_rates(rates, losses, chosen, Path(args.find_rate))
    write_output(args.find_rate, picture, args.force)
    print(f"Plot of the losses: {printable(args.find_rate)}")
    print(f"Suggested: --learning-rate {chosen:.1e}")
    return 0
