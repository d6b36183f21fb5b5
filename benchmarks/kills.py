"""Kill -9 at random moments: does a resumed training end as if nothing had happened?

    python -m benchmarks.kills [--kills 20] [--seed 0]

A short training on drawn birds, with a checkpoint after each of the twelve steps of an
epoch, runs once to its end. Then it is started again and killed at a random moment,
resumed and killed, until it has been killed so often; the last time it may end. Its
weights and its log have to equal the first one's bit for bit, and after every kill the
folder has to be one that can be resumed, or started anew.

One kill in three comes at any moment. The others come some random milliseconds after
the writing of a checkpoint has begun; an unfinished file that lies there afterwards
shows that it was hit, and the next start has to remove it.
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
# Checkpoints that a resumed training writes before one of them is aimed at.
WRITTEN = 5
# While a checkpoint of this training is written, s.
WRITING = 0.02


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


def unfinished(folder: Path) -> list[str]:
    """Files in a folder that have not got their name yet."""
    try:
        return [n for n in os.listdir(folder) if n.startswith(".keras-apinet-")]
    except FileNotFoundError:
        return []


def kill(process: subprocess.Popen, folder: Path, moment: float, aimed: int) -> bool:
    """Kills a training, unless it ends before.

    Args:
        process: The training.
        folder: Its checkpoints.
        moment: When, s: after its start, or after the writing of a checkpoint began.
        aimed: Which checkpoint that is, 0 for none.

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
    """Prints what was equal."""
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
                print("ended before its kill; once more from the start", flush=True)
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
        "A training killed at random moments against an uninterrupted one",
        ["backend", "kills", "while a checkpoint was written", "outcome"],
        [[backend(), str(kills), str(hits), "equal, bit for bit"]],
        f"Drawn birds, seed {args.seed} of the moments, {RECIPE['steps_per_epoch']} "
        "checkpoints in each epoch. Compared: weights, optimizer, random state and "
        "log. What a kill left unfinished was gone after the next start.",
        variant=backend(),
        headline={
            f"weights after {kills} kills, {hits} of them while a checkpoint was "
            f"written, {backend()}": "equal, bit for bit",
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
