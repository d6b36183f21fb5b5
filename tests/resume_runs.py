"""A child process of test_resume: a short training that may kill itself.

    python resume_runs.py train|resume FOLDER RECIPE_JSON [MOMENT]

MOMENT is where kill -9 comes: `step:N` in the middle of the N-th step; `replace:N`
before the N-th file takes its name; `checkpoint:N` when the N-th checkpoint is due and
the epoch's models are already kept; `seal:N` while the N-th checkpoint is written.
Instead of it come, in step N, Ctrl-C with `interrupt:N`, the end of the terminal with
`hangup:N`, and a stop that lasts until somebody ends it with `pause:N`. From the N-th
checkpoint on (`full:N`), or from the N-th time that models are kept (`models:N`), no
file can be larger than 8 KiB.
"""

import json
import os
import resource
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_apinet import APINetError
from keras_apinet.train import Recipe, checkpoints, resume, train
from keras_apinet.train.callbacks import RunCheckpoint, TrainingStopped

action, folder, recipe, *moments = sys.argv[1:]


def send(number=signal.SIGKILL):
    """What sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def fill_up():
    """Lets every larger file fail, as on a disk that is full."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))


def at(owner, name, count, happens):
    """Lets something happen when a function is called for the `count`-th time."""
    original, calls = getattr(owner, name), [0]

    def replacement(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            happens()
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


for moment in moments:
    kind, _, count = moment.partition(":")
    owner, name, happens = {
        "step": (RunCheckpoint, "on_train_batch_end", send()),
        "interrupt": (RunCheckpoint, "on_train_batch_end", send(signal.SIGINT)),
        "hangup": (RunCheckpoint, "on_train_batch_end", send(signal.SIGHUP)),
        "pause": (RunCheckpoint, "on_train_batch_end", send(signal.SIGSTOP)),
        "replace": (os, "replace", send()),
        "checkpoint": (RunCheckpoint, "checkpoint", send()),
        "seal": (checkpoints, "seal", send()),
        "full": (RunCheckpoint, "checkpoint", fill_up),
        "models": (RunCheckpoint, "keep", fill_up),
    }[kind]
    at(owner, name, int(count), happens)

try:
    if action == "train":
        train(Recipe(**json.loads(recipe)), folder, "quiet")
    else:
        changes = json.loads(recipe)
        resume(folder, changes, "quiet", force=bool(changes))
except TrainingStopped:
    os._exit(130)  # as the command line does
except APINetError as error:
    print(error, file=sys.stderr, flush=True)
    os._exit(2)
