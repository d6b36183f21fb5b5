"""Runs all benchmarks one after another, then updates RESULTS.md and the README table.

    python -m benchmarks --quick      # within 15 minutes on two cores
    python -m benchmarks              # in full: hours
    python -m benchmarks --data FOLDER --weights FILE     # accuracy and ablation too
    python -m benchmarks --list       # only shows the commands

Each benchmark runs in a child process; a failure does not stop the others. Benchmarks
that apply to every backend run on those that are installed. Benchmarks that the quick
mode skips keep their recorded results in RESULTS.md.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.results import render

BACKENDS = ("tensorflow", "jax", "torch")
# Synthetic birds and the small backbone, the defaults of the package.
DRAWN = "--recipe none --data synthetic_birds"

# `*`: runs on every backend. {runs}: a temporary folder.
QUICK = (
    "* head --rounds 30",
    "* step --backbones tiny --image-size 96 --rounds 5",
    "mining --images 256 512 1024 --channels 512 --classes 100 1000 10000 "
    "--seconds 1 --rounds 20",
    "inference --backbones mobilenet_v2 --rounds 60",
    "pipeline --seconds 1 --rounds 3",
    f"accuracy {DRAWN} --set image_size=48 --set epochs=2 "
    "--seeds 0 1 --jobs 2 --out {runs}/accuracy",
)
FULL = (
    "* head",
    "* step --backbones resnet50 mobilenet_v2 efficientnet_v2_b0",
    "* mining",
    "inference",
    "pipeline",
    "evaluation",
    "export_matrix",
    "phone",
    "families",
    "interval_coverage",
    "* kills",
    "faults",
    f"accuracy {DRAWN} --out {{runs}}/birds",
    "contrast {runs}/birds/pairwise-0",
)
TRAINED = ("accuracy", "ablation")


def commands(quick: bool, extra: str, runs: str) -> list[tuple[str | None, str]]:
    """Returns the backend (`None`: any) and the command line of every benchmark."""
    found: list[tuple[str | None, str]] = []
    lines = QUICK if quick else FULL
    if extra:
        lines = (*lines, *(f"{name} {extra}" for name in TRAINED))
    for line in lines:
        backends = [
            b for b in BACKENDS if line[0] == "*" and importlib.util.find_spec(b)
        ]
        text = line.removeprefix("* ").replace("{runs}", runs)
        found += [(backend, text) for backend in backends or [None]]
    return found


def main() -> None:
    """Runs all benchmarks and reports those that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", help="photos for accuracy and ablation")
    parser.add_argument("--weights", help="weights file of their backbone")
    parser.add_argument("--list", action="store_true", help="only show the commands")
    args = parser.parse_args()
    given = {"--data": args.data, "--weights": args.weights}
    extra = " ".join(f"{k} {v}" for k, v in given.items() if v)
    failed = []
    with tempfile.TemporaryDirectory() as runs:
        for backend, line in commands(args.quick, extra, runs):
            chosen = {"KERAS_BACKEND": backend} if backend else {}
            shown = " ".join([*(f"{k}={v}" for k, v in chosen.items()), line])
            if args.list:
                print(shown.replace(runs, "RUNS"))
                continue
            print(f"\n== {shown}", flush=True)
            began = time.monotonic()
            name, *arguments = line.split()
            child = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{name}", *arguments],
                env={**os.environ, **chosen},
            )
            print(f"   {time.monotonic() - began:.0f} s", flush=True)
            if child.returncode:
                failed.append(shown)
    if not args.list:
        render()
    if failed:
        sys.exit("Failed:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
