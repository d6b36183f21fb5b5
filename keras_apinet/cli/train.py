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
HELP = "train a model and leave everything in a run folder"
# What is kept apart from the other settings in --help, as it is given most often.
_FIRST = ("data", "backbone", "weights", "image_size", "epochs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one option for every setting of the recipe."""
    # argparse's own would list some fifty options before it says what is usual.
    parser.usage = (
        "keras-apinet train [RECIPE.toml] --out FOLDER [OPTION ...]\n"
        "       keras-apinet train --resume RUN\n"
        "       keras-apinet train [RECIPE.toml] --print-recipe [OPTION ...]"
    )
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE.toml",
        help="settings to start from; options given here override them",
    )
    parser.add_argument("--out", metavar="FOLDER", help="run folder to make")
    parser.add_argument(
        "--resume", metavar="RUN", help="continue a run that was stopped or killed"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="resume although settings, data or versions have changed; with "
        "--find-rate, replace an earlier picture",
    )
    parser.add_argument(
        "--find-rate",
        metavar="FILE",
        help="train nothing that is kept: try learning rates, draw the loss at each "
        "(.svg, .png) and suggest one",
    )
    parser.add_argument(
        "--minutes",
        type=MINUTES,
        metavar="N",
        help="measure what a step takes, and choose so many epochs (and, if few fit, "
        "fewer views and head epochs) that all takes N minutes",
    )
    parser.add_argument(
        "--print-recipe",
        action="store_true",
        help="print the whole recipe as TOML and train nothing",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting of the recipe; the same as --NAME VALUE",
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
        # Left out unless given, so that a recipe file is not overridden by defaults.
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
        help="devices over which the classifier is spread, for very many classes; JAX",
    )
    machine.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 runs; JAX"
    )
    machine.add_argument("--processes", type=PROCESSES, default=1, metavar="N")
    machine.add_argument("--process-index", type=PROCESS_INDEX, default=0, metavar="I")
    output = parser.add_mutually_exclusive_group()
    for mode, text in (
        ("bar", "progress bar even if the output is not a terminal"),
        ("plain", "one line for each epoch"),
        ("quiet", "print nothing but errors"),
    ):
        output.add_argument(
            f"--{mode}", dest="verbose", action="store_const", const=mode, help=text
        )


def _named_as_options(command: Callable[[argparse.Namespace], T]) -> Any:
    """Errors call settings `--image-size 3` and so on, without a recipe file."""

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
    """Reads the recipe, before the backend starts: it may name one.

    True means that the command is done: the recipe was only to be printed.
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
            raise APINetError(f"--{name} and --{other} do not fit; omit either.")
    if args.resume:
        if args.recipe or args.out:
            raise APINetError(
                f"--resume {args.resume} continues in its own folder with its own "
                "recipe; omit --out and the recipe file, or omit --resume."
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
        raise APINetError("The run has no folder; give --out FOLDER.")
    elif not args.process_index:
        from keras_apinet.runs import check_new

        check_new(args.out)
    if args.settings.backend:
        _choose_backend(args.settings.backend, "This recipe is")
    check_source(args.settings.data, args.settings.data_dir)
    return False


def _choose_backend_of_run(folder: str, changed: str | None) -> None:
    """The recipe's backend, or the one that the run began with."""
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
    """Trains, then says where the results are."""
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
            "Stopped, and saved. Continue with: keras-apinet train --resume "
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
    """Tries learning rates, draws the loss at each and suggests one."""
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
    print(f"Loss at each rate: {printable(args.find_rate)}")
    print(f"Suggested: --learning-rate {chosen:.1e}")
    return 0
