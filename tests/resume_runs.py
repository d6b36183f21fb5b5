"""A child process of test_resume: a short training that may kill itself.

    python resume_runs.py train|resume FOLDER RECIPE_JSON [MOMENT]

MOMENT is where kill -9 comes: `step:N` in the middle of the N-th step; `replace:N`
before the N-th file takes its name; `checkpoint:N` when the N-th checkpoint is due and
the epoch's models are already kept; `interrupt:N`: Ctrl-C in step N instead.
"""

import json
import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_apinet.train import Recipe, resume, train
from keras_apinet.train.callbacks import Keeper, TrainingStopped

action, folder, recipe, *moments = sys.argv[1:]


def at(owner, name, count, number=signal.SIGKILL):
    """Sends this process a signal when a function is called for the `count`-th time."""
    original, calls = getattr(owner, name), [0]

    def replacement(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, replacement)


for moment in moments:
    kind, _, count = moment.partition(":")
    if kind == "step":
        at(Keeper, "on_train_batch_end", int(count))
    elif kind == "interrupt":
        at(Keeper, "on_train_batch_end", int(count), signal.SIGINT)
    elif kind == "replace":
        at(os, "replace", int(count))
    else:
        at(Keeper, "checkpoint", int(count))

try:
    if action == "train":
        train(Recipe(**json.loads(recipe)), folder, "quiet")
    else:
        changes = json.loads(recipe)
        resume(folder, changes, "quiet", force=bool(changes))
except TrainingStopped:
    sys.exit(130)
