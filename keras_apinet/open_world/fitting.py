"""Fitting after training: temperature, threshold for unknown photos, families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_apinet import data as sources
from keras_apinet.data import ImageData, Split
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.calibration import calibrate_run, log_softmax, too_few
from keras_apinet.evaluate.evaluation import open_data, open_judged_data
from keras_apinet.evaluate.measures import detection
from keras_apinet.evaluate.predictions import data_groups, known_images
from keras_apinet.files.features import Features, weights_fingerprint
from keras_apinet.files.io import digest_of
from keras_apinet.files.run_shapes import file_of
from keras_apinet.model.apinet import APINet
from keras_apinet.open_world.families import (
    FILE,
    confused_families,
    families_in,
    family_figures,
    read_families,
)
from keras_apinet.open_world.features import photo_features, run_features
from keras_apinet.open_world.unknown import (
    FEWEST_IMAGES,
    UNKNOWN,
    Unknown,
    open_unknown,
)
from keras_apinet.runs import CALIBRATION, Run
from keras_apinet.shares import interval, percent, share_of

Say = Callable[[str], None]
# Maximum size of the training features held in memory and stored in the run.
_MOST_FLOATS = 2**29


def fit_after_training(run: Run, images: ImageData, keep: float, say: Say) -> None:
    """Fits temperature and unknown threshold on validation photos; stores both.

    `keep` is the fraction of known photos that the threshold for unknown must accept;
    0 fits no threshold.
    """
    count = len(images.splits["val"])
    if few := too_few(count):  # no need to load the model
        none = {"temperature": 1.0, "reason": few, "images": count, "model": "best"}
        run.write(CALIBRATION, none)
        say(few)
        return
    try:
        model = run.model()
        found = calibrate_run(run, model, images, again=True)
    except APINetError as error:
        say(f"No temperature was fitted: {error}")
        return
    assert found is not None
    told = f"Temperature {found['temperature']:.2f}, fitted on {count:,} validation"
    say(found["reason"] or f"{told} images")
    if not keep:
        return
    try:
        known = open_unknown(run, model)
        if known is not None and known.keep == keep:  # already fitted for this model
            return
        fit_unknown(run, model, images, keep=keep)
        say(f"Threshold for unknown, which accepts {keep:.0%} of known photos")
    except APINetError as error:
        say(f"No threshold for unknown was fitted: {error}")


def fit_unknown(
    run: Run,
    model: APINet,
    images: ImageData | None = None,
    *,
    which: str = "best",
    keep: float = 0.95,
) -> Unknown:
    """Fits a model's threshold for unknown photos and its families; stores both.

    By default, `images` are loaded from their original location. Raises an error for
    too few validation photos, or a class named `unknown`.
    """
    if "unknown" in run.class_names:
        raise APINetError(
            "A class of this run is called 'unknown', which is reserved for photos of "
            "no class; rename it in the data."
        )
    images = open_data(run) if images is None else images
    held_out = len(images.splits.get("val", ()))
    if held_out < FEWEST_IMAGES:
        raise APINetError(
            f"A threshold for unknown photos needs at least {FEWEST_IMAGES} validation "
            f"photos, but {images.name!r} has {held_out}; train with --validation 0.2."
        )
    floats = len(images.splits["train"]) * model.feature_size
    if floats > _MOST_FLOATS:
        raise APINetError(
            f"The features of {len(images.splits['train']):,} training photos would "
            f"take {4 * floats / 1e9:.1f} GB, but the limit is "
            f"{4 * _MOST_FLOATS / 1e9:.1f} GB; train on fewer photos."
        )
    found = run_features(run, model, images, which=which)
    logits = found["val"].logits(model)
    fitted = Unknown.fit(found["train"], found["val"], logits, keep)
    fitted.save(run, which, model, len(found["val"]))
    known = run.read(FILE)
    # Families from confusions may be of an earlier model.
    if known is None or known.get("source") == "confusions":
        _write_families(run, model, images, found["val"], which)
    return fitted


def _write_families(
    run: Run, model: APINet, images: ImageData, held_out: Features, which: str
) -> None:
    names = run.class_names
    groups = data_groups(images, names)
    level = next(iter(groups), None)
    if level is None:
        p = _probabilities(run, model, held_out, which)
        families = confused_families(held_out.labels, p, names)
    else:
        families = groups[level]
    content = dict(zip(names, families, strict=True))
    run.write(FILE, {"families": content, "source": level or "confusions"})


def _probabilities(run: Run, model: APINet, seen: Features, which: str) -> Any:
    """Probabilities `[n, C]` at the temperature of the run's model."""
    temperature = run.temperature(which, model)
    return np.exp(log_softmax(seen.logits(model), temperature))


def measure_open(
    run: Run | str | Path,
    *,
    split: str = "test",
    which: str = "best",
    data: str | ImageData | None = None,
    data_dir: str | None = None,
    ignore_unknown: bool = False,
    foreign: str | Path | None = None,
    confidence: float | None = None,
    families: str | Path | None = None,
) -> dict[str, Any]:
    """Measures how well a run rejects foreign photos and answers with families.

    Args:
        run: A run, or its folder.
        split: The split of known photos.
        which: The `"best"` model (default) or the `"last"`.
        data: New location of the run's data set, or another data set to test on.
        data_dir: New location of TensorFlow Datasets data, if moved.
        ignore_unknown: Whether to skip images of classes that the model does not know.
        foreign: Folder of class folders with photos that the model does not know.
        confidence: Minimum probability of an answer.
        families: A CSV file with columns `class` and `family`, stored in the run.

    Returns:
        `foreign`: `auroc` and `rejected` (when accepting `keep` of the known photos),
        `known_kept` and `foreign_rejected` at the run's threshold, `top1` and
        `top1_kept` of the known photos; `families`: see `family_figures`; `open`: both
        as sentences, also stored in the run. Only the requested parts are included.

    Raises:
        APINetError: If there are no held-out photos, the foreign folder contains known
            classes or no readable photos, or the table is invalid.
    """
    run = Run.open(run)
    names = run.class_names
    own = None if families is None else read_families(families, names)
    others = None if foreign is None else _foreign_data(foreign, names)
    images, given = open_judged_data(run, data, data_dir)
    part = known_images(images, split, names, ignore_unknown)
    if own is not None:
        content = dict(zip(names, own, strict=True))
        run.write(FILE, {"families": content, "source": str(families)})
    model = run.model(which)
    if given:  # the run only caches features of its own photos
        known = photo_features(run, model, part)
    else:
        known = run_features(run, model, images, which=which, splits=(split,))[split]
    result: dict[str, Any] = {}
    if others is not None:
        unknown = open_unknown(run, model, which)
        if unknown is None:
            keep = run.settings.get("unknown_keep") or 0.95
            fitted_on = None if given else images
            unknown = fit_unknown(run, model, fitted_on, which=which, keep=keep)
        strange = [photo_features(run, model, part) for part in others]
        result["foreign"] = _told_apart(unknown, model, known, strange)
    if confidence is not None:
        own = families_in(run.read(FILE), names)
        if own is None:
            raise APINetError(
                "This run has no families; give them with --families FILE, a CSV file "
                "with the columns class and family."
            )
        p = _probabilities(run, model, known, which)
        result["families"] = family_figures(known.labels, p, own, confidence)
    told = _sentences(result)
    result["open"] = [*told.values()]
    if told:
        what = {
            "model": which,
            "data": images.name,
            "photos": images.fingerprint(),
            "weights": weights_fingerprint(model),
        }
        _keep_sentences(run, f"open_{split}.json", what, told)
    return result


def _keep_sentences(
    run: Run, file: str, what: dict[str, str], told: dict[str, str]
) -> None:
    """Stores measurements, merged with earlier ones of the same weights and photos.

    Each is stored with the digest of the file it depends on, to detect changes.
    """
    depends = {"foreign": file_of(UNKNOWN, what["model"]), "families": FILE}
    names = {kind: depends[kind] for kind in told}
    files = {k: [name, digest_of(run.folder / name)] for k, name in names.items()}
    before = run.read(file) or {}
    if before and all(before.get(name) == value for name, value in what.items()):
        told, files = {**before["sentences"], **told}, {**before["files"], **files}
    run.write(file, {**what, "files": files, "sentences": told})


def _sentences(result: dict[str, Any]) -> dict[str, str]:
    """The measurements as sentences."""

    def share(figure: dict[str, Any]) -> str:
        if figure["value"] is None:
            return "-"
        ends = interval(figure["low"], figure["high"])
        return f"{percent(figure['value'])} ({ends})"

    found = {}
    if told := result.get("foreign"):
        auroc = told["auroc"]
        found["foreign"] = (
            f"{told['foreign']:,} foreign against {told['known']:,} known photos: "
            f"AUROC {auroc['value']:.3f} ({auroc['low']:.3f} to "
            f"{auroc['high']:.3f}); when {told['keep']:.0%} of known photos are kept, "
            f"{share(told['rejected'])} of foreign photos are rejected. At the run's "
            f"threshold, {share(told['known_kept'])} of known photos are kept and "
            f"{share(told['foreign_rejected'])} of foreign photos rejected; top-1 "
            f"accuracy is {share(told['top1'])} on known photos and "
            f"{share(told['top1_kept'])} on those kept."
        )
    if families := result.get("families"):
        found["families"] = (
            f"At a confidence of {families['confidence']:.0%}, "
            f"{share(families['accuracy'])} of the answers are correct, with depth "
            f"{families['depth']:.2f}: a class for {share(families['class'])} of the "
            f"photos, a family for {share(families['family'])}, neither for "
            f"{share(families['neither'])}."
        )
    return found


def _foreign_data(folder: str | Path, class_names: list[str]) -> list[Split]:
    """All photos of a folder of other classes, from all of its splits."""
    if not Path(folder).exists():
        raise APINetError(f"The folder {str(folder)!r} is missing; check --foreign.")
    others = sources.load(str(folder), validation=None)
    same = [name for name in others.class_names if name in class_names]
    if same:
        raise APINetError(
            f"The foreign folder {str(folder)!r} contains classes that the model knows "
            f"({', '.join(map(repr, same[:5]))}); remove them from it."
        )
    return [part for part in others.splits.values() if len(part)]


def _told_apart(
    unknown: Unknown, model: APINet, known: Features, foreign: list[Features]
) -> dict[str, Any]:
    margins, *parts = (
        unknown.margins(seen.features, seen.logits(model)) for seen in (known, *foreign)
    )
    strange = np.concatenate(parts)
    right = known.logits(model).argmax(axis=1) == known.labels
    return {
        "keep": unknown.keep,
        "known": len(margins),
        "foreign": len(strange),
        **detection(margins, strange, unknown.keep),
        "known_kept": share_of(margins >= 0),
        "foreign_rejected": share_of(strange < 0),
        "top1": share_of(right),
        "top1_kept": share_of(right[margins >= 0]),
    }
