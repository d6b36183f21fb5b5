"""`keras-apinet predict`."""

import argparse
import json
from pathlib import Path

HELP = "classify photos with a run or an exported file"
# An exported file needs only its own runtime.
STARTS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the photos and the form of the answer."""
    parser.add_argument(
        "model", help="run folder, .keras, .tflite, .onnx or SavedModel folder"
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="image files")
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes to show (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
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
    """Prints the most probable classes of each photo."""
    from keras_apinet.export.classifier import load_classifier

    model = Path(args.model)
    if model.suffix == ".keras" or (model / "run.json").exists():
        from keras_apinet.cli.startup import start_backend

        start_backend()
    if args.map:
        from keras_apinet.evaluate.activation import write_maps

        write_maps(args.model, args.photos, args.map, force=args.force)
    predictions = load_classifier(args.model).predict(args.photos, top=args.top)
    answers = dict(zip(args.photos, predictions, strict=True))
    if args.json:
        rows = [
            {
                "photo": photo,
                "top": [{"class": name, "probability": p} for name, p in top],
            }
            for photo, top in answers.items()
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    for photo, top in answers.items():
        print(photo)
        for name, probability in top:
            print(f"  {probability:6.1%}  {name}")
    return 0
