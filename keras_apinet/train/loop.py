"""The training loop: the head phase, then all layers; and resuming a run."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_apinet.errors import APINetError
from keras_apinet.files.io import sweep
from keras_apinet.progress import lines_shown, phase
from keras_apinet.runs import FIGURES, Run, check_new, drop_figures, only_writer
from keras_apinet.shares import interval, percent, spread_points, wilson
from keras_apinet.train import checkpoints
from keras_apinet.train.budget.choice import Budget, fitted
from keras_apinet.train.cached_views import StoredViews, remove_views, stored_views
from keras_apinet.train.callbacks import RunCheckpoint, StopSignals
from keras_apinet.train.checkpoints import Stored
from keras_apinet.train.devices import Devices, out_of_memory, place
from keras_apinet.train.head_phase import train_head
from keras_apinet.train.optimization import check_steps, peak_rate, schedule
from keras_apinet.train.progress import Console, EpochLine, draw_curves, loggers
from keras_apinet.train.recipe import BEFORE, Recipe
from keras_apinet.train.recipe_files import differences
from keras_apinet.train.setup import OF_DATA, Setup, own_globals, prepare


def train(
    recipe: Recipe,
    out: str | Path,
    verbose: str = "auto",
    devices: Devices = Devices(),  # noqa: B008  frozen
    budget: Budget | None = None,
) -> Run:
    """Trains a model and saves it in a new run folder.

    Args:
        recipe: All settings of the run.
        out: Run folder to create; it must be new or empty.
        verbose: `"plain"`: one line per epoch; `"bar"`: the same with a progress bar;
            `"quiet"`: no output; `"auto"`: a bar on a terminal, otherwise plain.
        devices: Devices to train on. Defaults to one device.
        budget: Time limit, which sets the recipe's `epochs` and, if necessary, reduces
            `cached_views` and `head_epochs`. By default, the recipe decides.

    Returns:
        The finished run.

    Raises:
        APINetError: For invalid data, backbones or settings, a loss that is NaN or
            infinite, insufficient memory, or a time limit that is too short.
        TrainingStopped: If the user stopped training; the run can be resumed.

    Example:
    ```python
    run = train(Recipe(data="photos/", backbone="mobilenet_v2", epochs=20), "runs/a")
    print(run.read("training.json")["val_accuracy"])
    ```
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_globals())
        placement = stack.enter_context(place(devices))
        if placement.is_first:
            check_new(out)
        say = Console(verbose, placement.is_first)
        stack.enter_context(lines_shown(say.bar))
        setup = prepare(recipe, placement, say)
        setup = fitted(setup, budget) if budget else setup
        run = Run(Path(out), setup.description())
        if placement.is_first:
            run = Run.create(out, run.description)
            stack.enter_context(only_writer(run.folder))
            run.keep_data(setup.images)
        _fit(setup, run, None, iter(()))
    return _calibrated(setup, run)


def resume(
    folder: str | Path,
    changes: Mapping[str, Any] | None = None,
    verbose: str = "auto",
    devices: Devices = Devices(),  # noqa: B008
    force: bool = False,
) -> Run:
    """Resumes a run that was interrupted, with the same result as without.

    Args:
        folder: The run folder.
        changes: Settings to override.
        verbose: See `train`.
        devices: See `train`.
        force: Whether to resume even if settings, data or versions differ from those
            at the start of the run.

    Returns:
        The finished run.

    Raises:
        APINetError: As for `train`; for differences without `force`, listing each; or
            if another process is training there or no checkpoint can be read.
    """
    run = Run.open(folder)
    settings = {**BEFORE, **run.settings, **(changes or {})}
    recipe = Recipe.of(settings, str(run.folder))
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_globals())
        placement = stack.enter_context(place(devices))
        if placement.is_first:
            stack.enter_context(only_writer(run.folder))
            for left in (run.folder, run.folder / checkpoints.FOLDER):
                sweep(left, again=True)
        say = Console(verbose, placement.is_first)
        stack.enter_context(lines_shown(say.bar))
        other = recipe.download or {*(changes or ())} & {*OF_DATA}
        setup = prepare(recipe, placement, say, None if other else run)
        description = setup.description()
        changed = differences(run.description, description)
        if changed and not force:
            raise APINetError(
                f"The run in {str(folder)!r} started differently "
                f"({'; '.join(changed)}): resume anyway with --force, or start a new "
                "run."
            )
        readable = checkpoints.readable(run.folder, setup.say)
        stored = next(readable, None)
        if changed:
            if placement.is_first:
                run.write("run.json", description)
            run = Run(run.folder, description)
            if placement.is_first and other:
                run.keep_data(setup.images)
            if stored:  # the number of epochs may have changed
                stored[0].ended = stored[0].epoch >= recipe.epochs
        _fit(setup, run, stored, readable)
    return _calibrated(setup, run)


def _calibrated(setup: Setup, run: Run) -> Run:
    """Fits the temperature and other prediction parameters, on one device."""
    # Only needed once training has ended.
    from keras_apinet.open_world.fitting import fit_after_training

    if setup.placement.is_first and "val" in setup.images.splits:
        keep = setup.recipe.unknown_keep
        with lines_shown(setup.say.bar):
            fit_after_training(run, setup.images, keep, setup.say)
    return run


def _fit(setup: Setup, run: Run, stored: Stored | None, rest: Iterator[Stored]) -> None:
    """Runs the remaining phases; `rest` are the checkpoints before `stored`."""
    recipe, model, say = setup.recipe, setup.model, setup.say
    progress = stored[0] if stored else checkpoints.Progress()
    if progress.ended:
        say(f"This run already finished, after epoch {progress.epoch}.")
        if run.read(FIGURES) is None:  # killed before writing it
            _finish(setup, run, progress)
        return
    validation = setup.validation()
    if recipe.patience and validation is None:
        raise APINetError(
            f"patience={recipe.patience} requires a validation split, which "
            f"{recipe.data!r} does not have; set --validation 0.1, or --patience 0."
        )
    if validation is not None:
        count = len(setup.images.splits["val"])
        say(f"Validation: {count:,} images, accurate to {spread_points(count)}")
    source: Setup | StoredViews = setup
    if recipe.cached_views:
        source = stored_views(setup, Path(recipe.cached_views_dir or run.folder))
    steps = source.batches().plan.epoch_steps
    check_steps(recipe, steps)
    if setup.placement.is_first:
        drop_figures(run)  # stale after --force
    run_checkpoint = RunCheckpoint(run, recipe, progress, setup.placement.is_first)
    run_checkpoint.reports = [] if validation is None else [validation.report]
    head_epochs = recipe.head_phase_epochs
    with StopSignals(run_checkpoint), _explained(recipe), warnings.catch_warnings():
        # Skipped images may make validation one batch shorter.
        warnings.filterwarnings("ignore", "Your input ran out of data")
        if not stored and head_epochs:
            say(f"Training the head: {head_epochs} epochs")
            train_head(setup, head_epochs, run_checkpoint)
        peak = peak_rate(recipe, model)
        setup.compile(schedule(recipe, peak, recipe.epochs * steps))
        run_checkpoint.set_model(model)
        if not stored:
            if head_epochs:
                scores = {}
                if validation is not None:
                    with validation.report, phase("Validating"):
                        scores = model.evaluate(validation, verbose=0, return_dict=True)
                    run_checkpoint.note(validation.report)
                    say(f"After the head phase: validation {scores['accuracy']:.1%}")
                scores = {f"val_{k}": float(v) for k, v in scores.items()}
                run_checkpoint.head_rows[-1].update(scores)
                run_checkpoint.keep(scores)
            progress.ended = not recipe.epochs
            run_checkpoint.checkpoint()
        else:
            run_checkpoint.progress = progress = checkpoints.restore_newest(
                model, stored, rest, say
            )
            # With --force, epochs may be shorter and executions longer.
            progress.step -= progress.step % recipe.steps_per_execution
            if progress.step >= steps:
                progress.step = 0
            say(f"Resuming after epoch {progress.epoch}, step {progress.step}")
        _run_epochs(setup, source, validation, run_checkpoint)
    _finish(setup, run, progress)


def _run_epochs(
    setup: Setup,
    source: Setup | StoredViews,
    validation: Any,
    run_checkpoint: RunCheckpoint,
) -> None:
    """Trains all layers, from the current position to the end."""
    recipe, model, progress = setup.recipe, setup.model, run_checkpoint.progress
    judged, plan = run_checkpoint.reports, source.batches().plan
    steps, size = plan.epoch_steps, plan.batch_size
    done, writes = progress.epoch * steps + progress.step, run_checkpoint.writes
    told = phase("Training", recipe.epochs * steps * size, "images", done * size)
    with told as shown:
        lines = EpochLine(setup.say, shown, recipe.epochs, steps, size)
        while not progress.ended:
            partial = progress.step > 0
            if partial:
                run_checkpoint.partial = checkpoints.values_of(model)
            batches = source.batches(progress.epoch * steps + progress.step)
            run_checkpoint.reports = [batches.report, *judged]
            with contextlib.ExitStack() as stack:
                for report in run_checkpoint.reports:
                    stack.enter_context(report)
                model.fit(
                    batches,
                    validation_data=validation,
                    initial_epoch=progress.epoch,
                    # A partial epoch is completed first, by itself.
                    epochs=progress.epoch + 1 if partial else recipe.epochs,
                    steps_per_epoch=steps - progress.step,
                    verbose=0,
                    callbacks=[
                        run_checkpoint,
                        *(loggers(recipe, run_checkpoint.run.folder) if writes else ()),
                        lines,
                    ],
                )
            if partial and not progress.ended:
                # Keras leaves the averaged weights in the model when a fit ends.
                checkpoints.restore(run_checkpoint.values, model)


def _finish(setup: Setup, run: Run, progress: checkpoints.Progress) -> None:
    """Writes the results of the run."""
    say = setup.say
    best = progress.best if "val" in setup.images.splits else None
    if setup.placement.is_first:
        if not draw_curves(run.folder, progress.best_epoch):
            say("To plot the learning curves: pip install 'keras-apinet[report]'")
        remove_views(run.folder)
        # Last: a run without this file is finished on resume.
        run.write(
            FIGURES,
            {
                "best_epoch": progress.best_epoch,
                "val_accuracy": best[0] if best else None,
                "unreadable": progress.failed,
            },
        )
    if best:
        where = (
            f"epoch {progress.best_epoch}" if progress.best_epoch else "the head phase"
        )
        count = len(setup.images.splits["val"])
        ends = interval(*wilson(round(best[0] * count), count))
        say(
            f"Best validation accuracy {percent(best[0])} on {count:,} images "
            f"({ends}), after {where}"
        )


@contextlib.contextmanager
def _explained(recipe: Recipe) -> Iterator[None]:
    """Turns out-of-memory errors into advice."""
    try:
        yield
    except BaseException as error:
        if not out_of_memory(error):
            raise
        raise APINetError(
            "The device ran out of memory; lower --images-per-class (now "
            f"{recipe.images_per_class}), --classes-per-batch (now "
            f"{recipe.classes_per_batch}) or --image-size, or use --dtype "
            "mixed_bfloat16."
        ) from error
