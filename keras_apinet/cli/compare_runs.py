"""`keras-apinet compare-runs`."""

import argparse
from typing import Any

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable
from keras_apinet.files.schema import to_json

HELP = "compare the finished runs of two methods on the same test photos"

_TITLES = {
    "top1": "top-1 accuracy, %",
    "mean_per_class_accuracy": "mean per-class accuracy, %",
    "nll": "negative log-likelihood",
    "ece": "calibration error, %",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the runs of both methods, the data, and the output format."""
    parser.usage = "keras-apinet compare-runs RUN ... -- RUN ... [OPTION ...]"
    parser.add_argument(
        "first", nargs="+", metavar="RUN", help="runs of the first method"
    )
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="RUN",
        required=True,
        help="runs of the second method; `--` is a shorthand",
    )
    add_options(
        parser,
        *("--which", "--data", "--data-dir", "--split", "--batch-size", "--bootstrap"),
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="print a LaTeX table")
    add_options(form, "--json")


def prepare(args: argparse.Namespace) -> bool:
    """Checks the runs and data before the backend starts."""
    from keras_apinet.data.loading import check_source
    from keras_apinet.runs import Run, check_classes

    check_classes([Run.open(folder) for folder in (*args.first, *args.against)])
    if args.bootstrap < 1:
        raise APINetError("--bootstrap=0 gives no intervals; use at least 1 sample.")
    if args.data:
        check_source(args.data, args.data_dir)
    return False


def run(args: argparse.Namespace) -> int:
    """Prints the comparison."""
    from keras_apinet.evaluate.run_comparison import compare_runs

    result = compare_runs(
        args.first,
        args.against,
        split=args.split,
        which=args.which,
        data=args.data,
        data_dir=args.data_dir,
        batch_size=args.batch_size,
        bootstrap=args.bootstrap,
    )
    if args.json:
        print(to_json(result))
    else:
        print(latex(result) if args.latex else text(result))
    return 0


def rows(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The title, both values and the difference with its interval for each metric."""
    table = []
    for name, figure in result["figures"].items():
        scale, digits = (1, 3) if name == "nll" else (100, 2)
        first, second, gap, low, high = (
            scale * figure[key]
            for key in ("first", "second", "difference", "low", "high")
        )
        table.append(
            (
                _TITLES[name],
                f"{first:.{digits}f}",
                f"{second:.{digits}f}",
                f"{gap:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})",
            )
        )
    return table


def text(result: dict[str, Any]) -> str:
    """The comparison as aligned lines."""
    lines = [
        f"{result['images']:,} photos of {result['classes']} classes",
        f"first:  {', '.join(map(printable, result['first']))}",
        f"second: {', '.join(map(printable, result['second']))}",
        "",
    ]
    head = ("", "first", "second", "difference (95 % interval)")
    for title, first, second, gap in (head, *rows(result)):
        lines.append(f"{title:28}{first:>9}{second:>9}  {gap}")
    lines.append("")
    for pair in result["mcnemar"]:
        names = f"{printable(pair['first'])} and {printable(pair['second'])}"
        lines.append(
            f"McNemar, {names}: {pair['only_first']} and {pair['only_second']} photos "
            f"that only one run classifies correctly, p = {pair['p']:.3g}"
        )
    if min(len(result["first"]), len(result["second"])) < 2:
        lines.append(
            "A method has only one run, so the intervals do not cover other seeds."
        )
    return "\n".join(lines)


def latex(result: dict[str, Any]) -> str:
    """The comparison as a LaTeX table for the booktabs package."""
    body = [
        " & ".join((title.replace("%", r"\%"), first, second, f"${gap}$"))
        .replace(" (", r"\ (")
        .replace(" to ", r"\text{ to }")
        + r" \\"
        for title, first, second, gap in rows(result)
    ]
    return "\n".join(
        [
            r"\begin{tabular}{lrrl}",
            r"\toprule",
            r" & first & second & difference (95\,\% interval) \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )
