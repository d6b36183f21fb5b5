"""`keras-apinet export`."""

import argparse
import shlex
from pathlib import Path

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable
from keras_apinet.files.bounds import IMAGE_SIZE, LOGIT_SHARE, SHARE

HELP = "export a trained model to TFLite, SavedModel, ONNX or a web page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the formats and the output options."""
    parser.add_argument("model", help="run folder or .keras file")
    parser.add_argument(
        "--format",
        nargs="+",
        default=["tflite"],
        metavar="NAME",
        help="one or more of tflite, saved_model, onnx, web (default: tflite)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["float32"],
        metavar="NAME",
        help="for tflite and web: one or more of float32, float16, dynamic, int8 "
        "(default: float32)",
    )
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="output file or folder (default: in the run folder or beside the model)",
    )
    parser.add_argument(
        "--photos",
        metavar="DATA",
        help="data set for verification and int8 calibration (default: the run's)",
    )
    add_options(parser, "--which")
    parser.add_argument(
        "--license", metavar="TEXT", help="license to write into the file"
    )
    parser.add_argument(
        "--unknown",
        action="store_true",
        help="add a class `unknown` for photos that belong to none of the classes",
    )
    parser.add_argument(
        "--image-size",
        type=IMAGE_SIZE,
        metavar="N",
        help="image size in px, if the backbone accepts any size",
    )
    parser.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="web: folder with the runtime's npm packages (default: npm fetches them)",
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not verify the file against the Keras model",
    )
    parser.add_argument(
        "--min-agreement",
        type=SHARE,
        metavar="X",
        help="minimum fraction of photos with the same top-1 class as Keras, where "
        "it leads by more than 0.1 (default: 0.98 for dynamic and int8)",
    )
    parser.add_argument(
        "--max-difference",
        type=SHARE,
        metavar="X",
        help="maximum difference in any probability (default: 1e-5 for float32, 1e-2 "
        "for float16)",
    )
    parser.add_argument(
        "--max-logit-difference",
        type=LOGIT_SHARE,
        metavar="X",
        help="maximum difference in any logit, relative to the largest logit (default: "
        "1e-3 for float32, 5e-2 for float16)",
    )
    add_options(parser, "--force")


def prepare(args: argparse.Namespace) -> bool:
    """Checks the targets and the model path before the backend starts."""
    from keras_apinet.export.formats import Target, known_format
    from keras_apinet.runs import Run

    wanted: dict[tuple[str, str], None] = {}
    for name in args.format:
        form = known_format(name)
        for precision in args.precision:
            if len(args.precision) > 1 and form not in ("tflite", "web"):
                precision = "float32"  # others have only this one
            wanted[form, precision] = None
    if args.out and len(wanted) > 1:
        raise APINetError(
            f"--out={args.out!r} names one target, but {len(wanted)} exports were "
            "requested; omit --out, or request one export."
        )
    model = Path(args.model)
    args.targets = [
        Target.of(
            args.out or _default_target(model, form, precision),
            form,
            precision,
            args.runtime,
        )
        for form, precision in wanted
    ]
    if not model.is_file():
        Run.open(model)
    for target in args.targets:
        target.check(args.force)
    return False


def run(args: argparse.Namespace) -> int:
    """Exports to every requested format, then prints a verification table."""
    from keras_apinet.export.exporter import Exporter
    from keras_apinet.export.verification import reports_table
    from keras_apinet.progress import steps

    with steps() as say:
        exporter = Exporter(
            args.model,
            which=args.which,
            photos=args.photos,
            image_size=args.image_size,
            license=args.license,
            unknown=args.unknown,
            verify=args.verify,
            min_agreement=args.min_agreement,
            max_difference=args.max_difference,
            max_logit_difference=args.max_logit_difference,
            say=say,
        )
        reports = exporter.write(args.targets, force=args.force)
    print(printable(reports_table(reports), keep="\n"))
    for report in reports:
        print(f"Written: {printable(report.path)}")
        if report.format == "web":
            folder = printable(shlex.quote(str(report.path)))
            print(f"Serve it: python -m http.server -d {folder}")
    return 0


def _default_target(model: Path, form: str, precision: str) -> Path:
    from keras_apinet.export.formats import FORMATS

    suffix = "" if precision == "float32" else f"-{precision}"
    name = "page" if form == "web" else model.resolve().stem
    if form == "saved_model":
        name = f"{name}-saved_model"
    folder = model if model.is_dir() else model.parent
    return folder / f"{name}{suffix}{FORMATS[form]}"
