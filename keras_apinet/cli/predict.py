"""`keras-apinet predict`."""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable
from keras_apinet.files.bounds import SHARE, TOP
from keras_apinet.files.schema import to_json

HELP = "classify photos with a run or an exported file"
# An exported file needs only its own runtime.
STARTS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the photos and the output options."""
    parser.add_argument(
        "model", help="run folder, SavedModel folder, or .keras, .tflite or .onnx file"
    )
    parser.add_argument(
        "photos",
        nargs="+",
        metavar="PHOTO",
        help="image files, folders (searched recursively), patterns such as "
        "'new/*.jpg', or .csv or .tsv tables with a column path",
    )
    parser.add_argument(
        "--top", type=TOP, default=5, metavar="N", help="classes to show (default: 5)"
    )
    parser.add_argument(
        "--confidence",
        type=SHARE,
        default=0.0,
        metavar="X",
        help="minimum probability of an answer; if no class reaches it, the answer is "
        "the family of classes that does (default: 0)",
    )
    form = parser.add_mutually_exclusive_group()
    add_options(form, "--json")
    form.add_argument(
        "--csv", action="store_true", help="print CSV, one line for each class shown"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load a SavedModel whose graph can do more than classify, such as write "
        "files; use it only for sources you trust",
    )
    parser.add_argument(
        "--map",
        metavar="FOLDER",
        help="also write an activation map of the predicted class for each photo (run "
        "folder or .keras file only)",
    )
    parser.add_argument(
        "--features",
        metavar="FILE",
        help="also write the features of each photo, .npz or .csv (run folder or "
        ".keras file only)",
    )
    add_options(parser, "--force")


def run(args: argparse.Namespace) -> int:
    """Prints the most probable classes of each photo.

    Returns:
        0, or 2 if a photo could not be read; the others are still classified.
    """
    from keras_apinet.data.photos.files import listed_photos
    from keras_apinet.export.runtime.classifier import load_classifier
    from keras_apinet.progress import phase
    from keras_apinet.shares import probability as as_shown

    photos = listed_photos(
        args.photos, lambda note: print(printable(note), file=sys.stderr)
    )
    if args.features:
        from keras_apinet.open_world.features import check_features_file

        _check_keeps_features(args.model, "--features")
        check_features_file(args.features, args.force)
    if _is_keras(args.model):
        from keras_apinet.cli.startup import start_backend

        start_backend()
    failed: dict[int, str] = {}
    classifier = load_classifier(args.model, trust=args.trust)
    every, started = len(classifier.class_names), time.perf_counter()
    answers: list[list[tuple[str, float]]] = []
    with phase("Classifying", len(photos)) as moved:
        for start in range(0, len(photos), 32):
            wrong: dict[int, str] = {}
            part = photos[start : start + 32]
            answers += classifier.predict(part, top=every, failed=wrong)
            failed |= {start + i: why for i, why in wrong.items()}
            moved(len(answers))
    each = (time.perf_counter() - started) / len(photos)
    said = [
        classifier.verdict(answer, args.confidence) if answer else ("", "")
        for answer in answers
    ]
    answers = [answer[: args.top] for answer in answers]
    read = [photo for i, photo in enumerate(photos) if i not in failed]
    if args.map:
        write_maps(args.model, read, args.map, force=args.force)
    if args.features:
        write_features(args.model, read, args.features, force=args.force)
    if args.json:
        rows: list[dict[str, object]] = [
            {"photo": photo, "error": failed[i]}
            if i in failed
            else {
                "photo": photo,
                "answer": {"is": said[i][0], "name": said[i][1]},
                "top": [{"class": name, "probability": p} for name, p in answers[i]],
            }
            for i, photo in enumerate(photos)
        ]
        print(to_json(rows))
    elif args.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(("photo", "answer", "rank", "class", "probability", "error"))
        for i, photo in enumerate(photos):
            shown = printable(photo)
            if i in failed:
                table.writerow((shown, "", "", "", "", printable(failed[i])))
            for rank, (name, p) in enumerate(answers[i], 1):
                kind, nearest = said[i]
                answer = printable(nearest if kind in ("class", "family") else kind)
                row = (shown, answer, rank, printable(name), f"{p:.6g}", "")
                table.writerow(row)
    else:
        for i, photo in enumerate(photos):
            print(printable(photo))
            if i in failed:
                print(f"  {printable(failed[i])}")
            elif said[i][0] != "class":
                print(f"  {printable(_in_words(*said[i]))}")
            for name, probability in answers[i]:
                print(f"  {as_shown(probability):>6}  {printable(name)}")
    if sys.stderr.isatty():
        photo = "photo," if len(photos) == 1 else "photos, each"
        print(f"{len(photos):,} {photo} {1000 * each:,.0f} ms", file=sys.stderr)
    if failed:
        total = len(photos)
        print(
            f"keras-apinet: error: {len(failed):,} of {total:,} photos cannot be read.",
            file=sys.stderr,
        )
        return 2
    return 0


def _is_keras(model: str | Path) -> bool:
    """Whether the model is a `.keras` file or a run folder."""
    return Path(model).suffix == ".keras" or (Path(model) / "run.json").exists()


def _check_keeps_features(model: str | Path, option: str) -> None:
    if not _is_keras(model):
        raise APINetError(
            f"{str(Path(model))!r} has no feature maps; give a run folder or a .keras "
            f"file for {option}."
        )


def _in_words(kind: str, name: str) -> str:
    """The text for a verdict other than a class."""
    from keras_apinet.open_world.families import words

    if kind == "family":
        return words(name)
    known = "looks like none of these" if kind == "unknown" else "not sure"
    return f"{known} (nearest: {name})"


def write_maps(
    model: str | Path,
    photos: Sequence[str | Path],
    folder: str | Path,
    *,
    force: bool = False,
) -> list[Path]:
    """Writes `<photo>.map.png` for each photo: the model's input and its class map.

    `model` is a run folder or a `.keras` file. Returns the paths in the order of the
    photos.
    """
    import numpy as np
    from PIL import Image

    from keras_apinet.evaluate.contrast_maps import class_activation, with_heat
    from keras_apinet.evaluate.feature_maps import FeatureMaps
    from keras_apinet.files.io import unwritable
    from keras_apinet.files.outputs import check_output, picture_bytes, write_output

    _check_keeps_features(model, "--map")
    folder = Path(folder)
    targets: list[Path] = []
    for photo in photos:
        name, number = Path(photo).stem, 1
        path = folder / f"{name}.map.png"
        while path in targets:  # same name in several folders
            number += 1
            path = folder / f"{name} {number}.map.png"
        check_output(path, "PNG picture", force)
        targets.append(path)
    network, prepared = _opened(model)
    feature_maps = FeatureMaps(network)
    with unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for photo, path in zip(photos, targets, strict=True):
        image = prepared(photo)
        shown = with_heat(
            image, class_activation(network, image, feature_maps=feature_maps)
        )
        picture = Image.fromarray(np.concatenate([image, shown], axis=1))
        write_output(path, picture_bytes(picture, path), force)
    return targets


def write_features(
    model: str | Path, photos: Sequence[str], path: str | Path, *, force: bool = False
) -> None:
    """Writes the pooled features of photos; see `write_photo_features`."""
    import numpy as np

    from keras_apinet.open_world.features import write_photo_features
    from keras_apinet.progress import phase

    network, prepared = _opened(model)
    features = [np.zeros((0, network.feature_size), np.float32)]
    with phase("Computing features", len(photos)) as shown:
        extractor = network.feature_model()
        for start in range(0, len(photos), 32):
            part = np.stack([prepared(photo) for photo in photos[start : start + 32]])
            features.append(np.asarray(extractor.predict_on_batch(part), np.float32))
            shown(start + len(part))
    write_photo_features(path, photos, np.concatenate(features), force)


def _opened(model: str | Path) -> tuple[Any, Callable[[str | Path], Any]]:
    """The model of a run folder or file, and its photo preprocessing function."""
    from keras_apinet.data import prepare, read_photo
    from keras_apinet.loading import load
    from keras_apinet.runs import Run

    own = (Run.open(model), "best") if Path(model).is_dir() else Run.of_model(model)
    network = own[0].model(own[1]) if own else load(model)
    resize = own[0].settings.get("resize", "fit") if own else "fit"

    def prepared(photo: str | Path) -> Any:
        pixels = read_photo(photo)
        size = network.image_size or min(pixels.shape[:2])
        return prepare(pixels, size, resize=resize)

    return network, prepared
