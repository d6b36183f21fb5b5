"""Kill -9 at random moments: does a resumed training end as if nothing had happened?

    python -m benchmarks.kills [--kills 20] [--seed 0]

A short training on drawn birds runs once to its end. Then it is started again and
killed at a random moment, resumed and killed, until it has been killed so often; the
last time it may end. Its weights and its log have to equal the first one's bit for
bit, and after every kill the folder has to be one that can be resumed, or started anew.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.results import backend, record

RECIPE = {
    "data": "synthetic_birds",
    "image_size": 32,
    "epochs": 4,
    "steps_per_epoch": 12,
    "warmup_epochs": 2,
    "ema": 0.9,
    "augmentation": "paper",
    "checkpoint_minutes": 0.005,
}


def start(folder: Path) -> subprocess.Popen:
    """Starts the training, or goes on with it."""
    command = [sys.executable, "-m", "keras_apinet", "train", "--plain"]
    if (folder / "run.json").exists():
        command += ["--resume", str(folder)]
    else:
        command += ["--out", str(folder)]
        command += [f"--set={name}={value}" for name, value in RECIPE.items()]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def outcome(folder: Path) -> tuple[list[np.ndarray], str]:
    """Everything in the last checkpoint, and the log."""
    newest = sorted((folder / "checkpoints").glob("*.npz"))[-1]
    with np.load(newest) as file:
        arrays = [file[name] for name in file.files[1:]]
    return arrays, (folder / "log.csv").read_text("utf-8")


def main() -> None:
    """Prints what was equal."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as root:
        whole, killed = Path(root, "whole"), Path(root, "killed")
        began = time.monotonic()
        assert start(whole).wait() == 0
        took = time.monotonic() - began
        print(f"uninterrupted: {took:.0f} s, on {backend()}")
        kills = 0
        while True:
            process = start(killed)
            try:
                # Most of a short run is its start: aim at the training too.
                limit = took * moments.uniform(0.1, 1.1)
                errors = process.communicate(
                    timeout=limit if kills < args.kills else None
                )[1]
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                saved = sorted(p.name for p in killed.glob("checkpoints/*.npz"))
                print(f"kill {kills:3} after {limit:5.1f} s, newest {saved[-1:]}")
                continue
            if process.returncode:
                sys.exit(f"A killed run cannot be resumed: {errors}")
            if kills >= args.kills:
                break
            print("ended before its kill; once more from the start")
            same(whole, killed)
            subprocess.run(["rm", "-r", str(killed)], check=True)
        same(whole, killed)
        print(f"equal, bit for bit, after {kills} kills: weights, optimizer and log")
    record(
        "kills",
        "A training killed at random moments against an uninterrupted one",
        ["backend", "kills", "weights, optimizer and log"],
        [[backend(), str(kills), "equal, bit for bit"]],
        f"Drawn birds, seed {args.seed} of the moments.",
        variant=backend(),
        headline={
            f"weights after {kills} kills, {backend()}": "equal, bit for bit",
        },
    )


def same(whole: Path, killed: Path) -> None:
    """Exits if two runs did not end alike."""
    (expected, log), (found, other) = outcome(whole), outcome(killed)
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not np.array_equal(a, b):
            sys.exit(f"variable {i} differs by up to {np.abs(a - b).max()}")
    if log != other:
        sys.exit(f"the logs differ:\n{log}\n{other}")


if __name__ == "__main__":
    main()
