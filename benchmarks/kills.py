"""Checks that a run killed at random moments and resumed ends as if uninterrupted.

    python -m benchmarks.kills [--kills 20] [--seed 0]

A short training run on synthetic birds, with a checkpoint after each of the twelve
steps of an epoch, runs once to the end. A second run is started, killed at a random
moment (`kill -9`), resumed and killed again, `--kills` times in all; then it may
finish. Its weights and its log must equal those of the first run bit for bit, and after
every kill the folder must be resumable, or still unused.

One kill in three comes at any moment. The others come a few random milliseconds after
the writing of a checkpoint has started; an unfinished file left behind shows that the
kill hit the writing, and the next start must remove this file.
"""

import argparse
import os
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
    "epochs": 6,
    "steps_per_epoch": 12,
    "head_epochs": 1,
    "ema_momentum": 0.9,
    "augmentation": "paper",
    "checkpoint_minutes": 1e-6,
}
# An aimed kill hits one of the first checkpoints written after a start.
WRITTEN = 5
# Longest delay of an aimed kill: about the time to write a checkpoint, s.
WRITING = 0.02


def start(folder: Path) -> subprocess.Popen:
    """Starts or resumes the training."""
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
    """The contents of the last checkpoint, and the log."""
    newest = sorted((folder / "checkpoints").glob("*.npz"))[-1]
    with np.load(newest) as file:
        arrays = [file[name] for name in file.files[1:]]
    return arrays, (folder / "log.csv").read_text("utf-8")


def unfinished(folder: Path) -> list[str]:
    """Temporary files in a folder that have not been renamed yet."""
    try:
        return [n for n in os.listdir(folder) if n.startswith(".keras-apinet-")]
    except FileNotFoundError:
        return []


def kill(process: subprocess.Popen, folder: Path, moment: float, aimed: int) -> bool:
    """Kills a training process, unless it ends first.

    Args:
        process: The training process.
        folder: The folder of its checkpoints.
        moment: Delay in s, from its start or from the writing of a checkpoint.
        aimed: The number of that checkpoint, counted from the start; 0 for none.

    Returns:
        Whether it was killed.
    """
    began, seen = time.monotonic(), set(unfinished(folder))
    while process.poll() is None:
        if aimed:
            new = set(unfinished(folder)) - seen
            seen |= new
            aimed -= len(new)
            if aimed <= 0:
                began, aimed = time.monotonic(), 0
        elif time.monotonic() - began > moment:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0003)
    return False


def main() -> None:
    """Runs, kills, compares and records."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0], allow_abbrev=False
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as root:
        whole, killed = Path(root, "whole"), Path(root, "killed")
        began = time.monotonic()
        assert start(whole).wait() == 0
        took = time.monotonic() - began
        print(f"uninterrupted: {took:.0f} s, on {backend()}", flush=True)
        kills = hits = 0
        while kills < args.kills:
            process = start(killed)
            anywhere = kills % 3 == 2
            moment = chance.uniform(0.1 * took, took) if anywhere else 0.0
            moment = moment or chance.uniform(0, WRITING)
            aimed = 0 if anywhere else chance.randint(1, WRITTEN)
            if kill(process, killed / "checkpoints", moment, aimed):
                kills += 1
                left = unfinished(killed / "checkpoints")
                hits += bool(left)
                saved = sorted(p.name for p in killed.glob("checkpoints/0*.npz"))
                print(
                    f"kill {kills:3}, newest {saved[-1:]}, unfinished {left}",
                    flush=True,
                )
            elif process.returncode:
                sys.exit(f"A killed run cannot be resumed: {process.stderr.read()}")
            else:
                print("Finished before the kill; starting again.", flush=True)
                same(whole, killed)
                subprocess.run(["rm", "-r", str(killed)], check=True)
            process.stderr.close()
        last = start(killed)
        if last.wait():
            sys.exit(f"A killed run cannot be resumed: {last.stderr.read()}")
        same(whole, killed)
        assert not [p for p in killed.rglob("*") if p.name.startswith(".")]
        print(f"equal, bit for bit, after {kills} kills, {hits} while writing")
    record(
        "kills",
        "A run killed at random moments, compared with an uninterrupted one",
        ["backend", "kills", "while a checkpoint was written", "outcome"],
        [[backend(), str(kills), str(hits), "equal, bit for bit"]],
        f"Synthetic birds; kill times from seed {args.seed}; "
        f"{RECIPE['steps_per_epoch']} checkpoints per epoch. Compared: weights, "
        "optimizer, random state and log. Unfinished files left by a kill were removed "
        "at the next start.",
        variant=backend(),
        headline={
            f"weights after {kills} kills, {hits} of them while a checkpoint was "
            f"written, {backend()}": "equal, bit for bit",
        },
    )


def same(whole: Path, killed: Path) -> None:
    """Exits with an error if the results of two runs differ."""
    (expected, log), (found, other) = outcome(whole), outcome(killed)
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if not np.array_equal(a, b):
            sys.exit(f"variable {i} differs by up to {np.abs(a - b).max()}")
    if log != other:
        sys.exit(f"the logs differ:\n{log}\n{other}")


if __name__ == "__main__":
    main()
