"""`keras-apinet predict`."""

import argparse
import sys
from pathlib import Path

from keras_apinet.errors import printable
from keras_apinet.files.bounds import SHARE, TOP
from keras_apinet.files.schema import to_json
from keras_apinet.open_world.families import words as family_words

HELP = "classify photos with a run or an exported file"
# An exported file needs only its own runtime.
STARTS_KERAS = False
_WORDS = {
    "unknown": "looks like none of these (nearest: {})".format,
    "unsure": "not sure (nearest: {})".format,
    "family": family_words,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the photos and the form of the answer."""
    parser.add_argument(
        "model", help="run folder, .keras, .tflite, .onnx or SavedModel folder"
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    parser.add_argument(
        "--top", type=TOP, default=5, metavar="N", help="classes to show (default: 5)"
    )
    parser.add_argument(
        "--confidence",
        type=SHARE,
        default=0.0,
        metavar="X",
        help="probability that an answer must have; where no class has it, the answer "
        "is the family of classes that has (default: 0)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="open a SavedModel folder whose graph could do more than classify, such "
        "as write files; only if you know who made it",
    )
    parser.add_argument(
        "--map",
        metavar="FOLDER",
        help="also write a picture of each photo that shows which places speak for its "
        "class (for a run folder or .keras file)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace what this package wrote there; nothing else is replaced",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the most probable classes of each photo.

    Returns:
        0, or 2 if a photo could not be read; the others are answered.
    """
    from keras_apinet.export.runtime.classifier import load_classifier
    from keras_apinet.shares import probability as as_shown

    model = Path(args.model)
    if model.suffix == ".keras" or (model / "run.json").exists():
        from keras_apinet.cli.startup import start_backend

        start_backend()
    failed: dict[int, str] = {}
    classifier = load_classifier(args.model, trust=args.trust)
    every = len(classifier.class_names)
    answers = classifier.predict(args.photos, top=every, failed=failed)
    said = [
        classifier.verdict(answer, args.confidence) if answer else ("", "")
        for answer in answers
    ]
    answers = [answer[: args.top] for answer in answers]
    if args.map:
        from keras_apinet.evaluate.attribution.pictures import write_maps

        read = [photo for i, photo in enumerate(args.photos) if i not in failed]
        write_maps(args.model, read, args.map, force=args.force)
    if args.json:
        rows: list[dict[str, object]] = [
            {"photo": photo, "error": failed[i]}
            if i in failed
            else {
                "photo": photo,
                "answer": {"is": said[i][0], "name": said[i][1]},
                "top": [{"class": name, "probability": p} for name, p in answers[i]],
            }
            for i, photo in enumerate(args.photos)
        ]
        print(to_json(rows))
    else:
        for i, photo in enumerate(args.photos):
            print(printable(photo))
            if i in failed:
                print(f"  {printable(failed[i])}")
            elif said[i][0] != "class":
                print(f"  {printable(_WORDS[said[i][0]](said[i][1]))}")
            for name, probability in answers[i]:
                print(f"  {as_shown(probability):>6}  {printable(name)}")
    if failed:
        total = len(args.photos)
        print(
            f"keras-apinet: error: {len(failed):,} of {total:,} photos cannot be read.",
            file=sys.stderr,
        )
        return 2
    return 0
