"""A training from start to end: head warm-up, then all layers; and resuming one."""

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_apinet import data
from keras_apinet.building import build
from keras_apinet.errors import APINetError
from keras_apinet.losses import CrossEntropy, PairwiseLoss
from keras_apinet.model import APINet
from keras_apinet.runs import Run
from keras_apinet.train import checkpoints, curves
from keras_apinet.train.callbacks import EpochLine, Keeper, StopSignals
from keras_apinet.train.devices import Devices, Placement, out_of_memory, place
from keras_apinet.train.optimization import optimizer, schedule
from keras_apinet.train.recipe import Recipe
from keras_apinet.train.warmup import warm_up


def train(
    recipe: Recipe,
    out: str | Path,
    verbose: str = "auto",
    devices: Devices = Devices(),  # noqa: B008  frozen
) -> Run:
    """Trains a model and leaves it in a new run folder.

    Args:
        recipe: What to train, and how.
        out: The run folder to make; a folder that holds a run is refused.
        verbose: `"bar"`: Keras's progress bar; `"plain"`: a line for each epoch;
            `"quiet"`: nothing; `"auto"`: a bar on a terminal, else plain.
        devices: Where to train. Default: one device.

    Returns:
        The finished run.

    Raises:
        APINetError: For data, backbones or settings that do not fit, a loss that is no
            number, or memory that ran out.
        TrainingStopped: If the user asked to stop; the run can be resumed.

    Example:
    ```python
    run = train(Recipe(data="photos/", backbone="mobilenet_v2", epochs=20), "runs/a")
    print(run.read("training.json")["val_accuracy"])
    ```
    """
    with place(devices) as placement:
        job = _prepare(recipe, placement, _Speaker(verbose, placement.is_first))
        description = job.description()
        if placement.is_first:
            run = Run.create(out, description)
        else:
            run = Run(Path(out), description)
        return _fit(job, run, None)


def resume(
    folder: str | Path,
    changes: Mapping[str, Any] | None = None,
    verbose: str = "auto",
    devices: Devices = Devices(),  # noqa: B008
    force: bool = False,
) -> Run:
    """Goes on with a training that was stopped or killed, as if it had not been.

    Args:
        folder: The run folder.
        changes: Settings that are to differ from the run's.
        verbose: See `train`.
        devices: See `train`.
        force: Go on although settings, data or versions differ from those that the run
            began with.

    Returns:
        The finished run.

    Raises:
        APINetError: As `train`, and for differences without `force`, each listed.
    """
    run = Run.open(folder)
    recipe = Recipe.of({**run.settings, **(changes or {})}, str(run.folder))
    with place(devices) as placement:
        job = _prepare(recipe, placement, _Speaker(verbose, placement.is_first))
        description = job.description()
        differences = _differences(run.description, description)
        if differences and not force:
            raise APINetError(
                f"The run in {str(folder)!r} began differently: "
                f"{'; '.join(differences)}. Go on all the same with --force, or start "
                "a new run."
            )
        stored = checkpoints.read_newest(run.folder)
        if differences:
            if placement.is_first:
                run.write("run.json", description)
            run = Run(run.folder, description)
            if stored:  # more epochs, or fewer, may have been asked for
                stored[0].ended = stored[0].epoch >= recipe.epochs
        return _fit(job, run, stored)


@dataclass(frozen=True)
class _Job:
    """A training that is ready to begin."""

    recipe: Recipe
    images: data.ImageData
    load: dict[str, Any]
    model: APINet
    image_size: int
    placement: Placement
    say: "_Speaker"

    def description(self) -> dict[str, Any]:
        """What `run.json` says."""
        splits = self.images.splits.items()
        return {
            "settings": self.recipe.asdict(),
            "class_names": list(self.images.class_names),
            "image_size": self.image_size,
            "data": {
                "load": self.load,
                "images": {name: len(split) for name, split in splits},
                "fingerprint": self.images.fingerprint(),
                "held_out": self.images.held_out,
            },
            "versions": _versions(),
        }

    def batches(self, start_step: int = 0, **options: Any) -> Any:
        """The training batches from a step on, counted over all epochs."""
        recipe, placement = self.recipe, self.placement
        classes = min(recipe.classes_per_batch, len(self.images.class_names))
        placement.check_batch(classes * recipe.images_per_class)
        if classes % placement.processes:
            raise APINetError(
                f"{classes} classes in a batch cannot be shared by "
                f"{placement.processes} processes; change --classes-per-batch."
            )
        settings = {
            "augmentation": recipe.augmentation,
            "box_crop": recipe.box_crop,
            **options,
        }
        return data.balanced_batches(
            self.images.splits["train"],
            classes_per_batch=classes // placement.processes,
            images_per_class=recipe.images_per_class,
            image_size=self.image_size,
            resize=recipe.resize,
            seed=recipe.seed,
            epoch_steps=recipe.steps_per_epoch,
            start_step=start_step,
            repeat=True,
            class_sampling=recipe.class_sampling,
            num_replicas=placement.processes,
            process_index=placement.process_index,
            process_count=placement.processes,
            **settings,
        )

    def validation(self) -> Any:
        """The validation batches, or `None`."""
        if "val" not in self.images.splits:
            return None
        split = self.images.splits["val"]
        shares = self.placement.shares
        size = -(-64 // shares) * shares
        batches = data.evaluation_batches(
            split,
            image_size=self.image_size,
            batch_size=size,
            resize=self.recipe.resize,
            box_crop=self.recipe.box_crop,
        )
        return self.placement.filled(batches, size, len(split))

    def loss(self) -> keras.losses.Loss:
        """The loss of the method."""
        recipe = self.recipe
        if recipe.method == "pairwise":
            return PairwiseLoss(
                recipe.margin, recipe.ranking_weight, recipe.label_smoothing
            )
        return CrossEntropy(recipe.label_smoothing)


def _prepare(recipe: Recipe, placement: Placement, say: "_Speaker") -> _Job:
    """Opens the data and builds the model."""
    backend = keras.backend.backend()
    if recipe.backend not in (None, backend):
        raise APINetError(
            f"This recipe is for the backend {recipe.backend!r}, and Keras runs on "
            f"{backend!r}; set KERAS_BACKEND={recipe.backend}."
        )
    keras.utils.set_random_seed(recipe.seed)
    load: dict[str, Any] = {
        "name": recipe.data,
        "data_dir": recipe.data_dir,
        "validation": recipe.validation,
        "seed": recipe.seed,
    }
    if recipe.level is not None:
        load["level"] = recipe.level
    images = data.load(**load, download=recipe.download)
    classes = len(images.class_names)
    if classes < 2:
        raise APINetError(
            f"The data set {recipe.data!r} has {classes} class; telling classes apart "
            "needs at least 2."
        )
    if Path(recipe.data).exists():
        load["name"] = str(Path(recipe.data).resolve())
    keras.config.set_dtype_policy(recipe.dtype)
    with placement.scope():
        model = _model(recipe, images)
    image_size = model.image_size or recipe.image_size
    if not image_size:
        raise APINetError(
            f"The backbone {recipe.backbone!r} takes images of any size; give "
            "--image-size."
        )
    counts = ", ".join(f"{len(s):,} {name}" for name, s in images.splits.items())
    say(
        f"{recipe.data}: {classes} classes, {counts} images\n"
        f"{recipe.backbone} at {image_size} px, {model.count_params():,} parameters, "
        f"{recipe.method}, on {backend}"
        + (f", {placement.shares} devices" if placement.shares > 1 else "")
    )
    return _Job(recipe, images, load, model, image_size, placement, say)


def _model(recipe: Recipe, images: data.ImageData) -> APINet:
    kinds = (recipe.intra, recipe.inter)
    first, second = ("nearest" if kind == "none" else kind for kind in kinds)
    counts = tuple(int(kind != "none") for kind in kinds)
    return build(
        recipe.backbone,
        len(images.class_names),
        image_size=recipe.image_size,
        weights=recipe.backbone_weights,
        pooling=recipe.pooling,
        strategy=(first, second),
        partners=(counts[0], counts[1]),
        memory=recipe.memory,
        mutual_units=recipe.mutual_units,
        dropout_rate=recipe.dropout_rate,
        batch_norm=recipe.or_else("batch_norm", "train", "train"),
        batch_norm_momentum=recipe.batch_norm_momentum,
        class_names=images.class_names,
        seed=recipe.seed,
    )


def _fit(job: _Job, run: Run, stored: Any) -> Run:
    """Runs the phases that are left, from a checkpoint if there is one."""
    recipe, model, say = job.recipe, job.model, job.say
    progress = stored[0] if stored else checkpoints.Progress()
    if progress.ended:
        say(f"This training has ended already, after epoch {progress.epoch}.")
        return run
    validation, plan = job.validation(), job.batches().plan
    steps, batch_size = plan.epoch_steps, plan.batch_size
    if progress.step >= steps:  # with --force, epochs may have become shorter
        progress.step = 0
    keeper = Keeper(run, recipe, progress, job.placement.is_first)
    warmup = recipe.or_else("warmup_epochs", 30, 0)
    with StopSignals(keeper), _explained(recipe):
        if not stored and warmup:
            say(f"Head warm-up: {warmup} epochs")
            warm_up(job, warmup, keeper)
        updates = max(1, recipe.epochs * steps // recipe.accumulate)
        peak = recipe.or_else("learning_rate", 3e-4, 2e-3)
        with job.placement.scope():
            rate = schedule(recipe, peak, updates)
            model.compile(
                optimizer(recipe, model, rate),
                loss=job.loss(),
                steps_per_execution=recipe.steps_per_execution,
                jit_compile="auto" if recipe.jit is None else recipe.jit,
            )
            model.optimizer.build(model.trainable_variables)
        keeper.set_model(model)
        if not stored:
            if warmup:
                scores = {}
                if validation is not None:
                    scores = model.evaluate(validation, verbose=0, return_dict=True)
                    say(f"After the warm-up: validation {scores['accuracy']:.1%}")
                keeper.keep({f"val_{k}": float(v) for k, v in scores.items()})
            progress.ended = not recipe.epochs
            keeper.checkpoint()
        else:
            checkpoints.restore(stored[1], model)
            say(f"Going on after epoch {progress.epoch}, step {progress.step}")
        lines = EpochLine(recipe.epochs, steps, batch_size)
        while not progress.ended:
            partial = progress.step > 0
            if partial:
                keeper.partial = checkpoints.values_of(model)
            batches = job.batches(progress.epoch * steps + progress.step)
            batches.report.failed.update(progress.failed)
            with batches.report:
                model.fit(
                    batches,
                    validation_data=validation,
                    initial_epoch=progress.epoch,
                    # An epoch that was begun is ended first, by itself.
                    epochs=progress.epoch + 1 if partial else recipe.epochs,
                    steps_per_epoch=steps - progress.step,
                    verbose=1 if say.bar else 0,
                    callbacks=[
                        keeper,
                        *_tensorboard(run.folder, keeper.writes),
                        *([lines] if say.lines else []),
                    ],
                )
            if partial and not progress.ended:
                # Keras leaves the averaged weights in the model when a fit ends.
                checkpoints.restore(keeper.values, model)
    return _finish(job, run, keeper)


def _tensorboard(folder: Path, writes: bool) -> list[keras.callbacks.Callback]:
    # TensorFlow's summaries are written by the tensorboard package, an extra.
    if not writes or importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]


def _finish(job: _Job, run: Run, keeper: Keeper) -> Run:
    """Writes what the training came to."""
    progress, say = keeper.progress, job.say
    validated = "val" in job.images.splits
    best = progress.best or (0.0, 0.0)
    if keeper.writes:
        run.write(
            "training.json",
            {
                "best_epoch": progress.best_epoch,
                "val_accuracy": best[0] if validated else None,
                "unreadable": progress.failed,
            },
        )
        if progress.rows and not curves.draw(progress.rows, run.folder):
            say("For pictures of the curves: pip install 'keras-apinet[report]'")
    if validated:
        where = f"epoch {progress.best_epoch}" if progress.best_epoch else "the warm-up"
        say(f"Best validation accuracy {best[0]:.1%}, after {where}")
    return run


class _explained:  # noqa: N801  used as a function
    """Turns an exhausted memory into advice."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and out_of_memory(error):
            recipe = self.recipe
            raise APINetError(
                "The memory of the device ran out; lower --images-per-class "
                f"(now {recipe.images_per_class}), --classes-per-batch (now "
                f"{recipe.classes_per_batch}) or --image-size, or take --dtype "
                "mixed_bfloat16."
            ) from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a run, in words."""
    found = []
    defaults = Recipe().asdict()
    for what, old, new in (
        ("", {**defaults, **before["settings"]}, now["settings"]),
        ("data ", before["data"], now["data"]),
        ("version of ", before["versions"], now["versions"]),
    ):
        for name in sorted({*old, *new} - {"load", "held_out"}):
            if old.get(name) != new.get(name):
                found.append(f"{what}{name} was {old.get(name)}, is {new.get(name)}")
    return found


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("keras-apinet", "keras", keras.backend.backend(), "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


class _Speaker:
    """What a person sees: a bar, lines, or nothing."""

    def __init__(self, verbose: str, speaks: bool = True) -> None:
        if verbose == "auto":
            verbose = "bar" if sys.stdout.isatty() else "plain"
        self.bar = verbose == "bar" and speaks
        self.lines = verbose != "quiet" and speaks

    def __call__(self, text: str) -> None:
        if self.lines:
            print(text, flush=True)
