"""What a person sees on a terminal, seen through a pseudo terminal of 80 columns."""

import os
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from factories import class_folders

from keras_apinet.progress import clock, phase

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals"),
]


def on_terminal(*command, columns=80):
    """All that a program writes to a terminal of its own, and its exit code."""
    import fcntl
    import pty
    import termios

    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=environment | {"TERM": "xterm"},
    ) as program:
        os.close(inner)
        written = b""
        while True:
            try:
                part = os.read(outer, 65536)
            except OSError:  # the last one that wrote there has ended
                break
            if not part:
                break
            written += part
    os.close(outer)
    return written.decode(), program.returncode


def frames(written):
    """Every state of every line that was shown, without colours and empty ones."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def left_over(written):
    """What stands on the terminal in the end: taken-back lines are gone."""
    lines = [""]
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if token == "\n":
            lines.append("")
        elif token == "\x1b[2K" or token == "\x1b[K":
            lines[-1] = ""
        elif token == "\x1b[1A":
            lines.pop() if len(lines) > 1 else None
        elif token != "\r" and not token.startswith("\x1b"):
            lines[-1] += token
    return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def photos(tmp_path):
    colours = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
    return class_folders(
        tmp_path / "photos",
        colours,
        8,
        lambda label, i: np.full((40, 40, 3), [*colours.values()][label]),
    )


@pytest.mark.slow
def test_a_training_is_one_line_that_moves_and_one_for_each_epoch(photos, tmp_path):
    written, code = on_terminal(
        *("-m", "keras_apinet", "train", "--data", photos, "--out", tmp_path / "run"),
        *("--backbone", "tiny", "--image-size", 32, "--epochs", 2, "--group-by"),
        *("none", "--mutual-units", 4, "--head-epochs", 1, "--classes-per-batch", 3),
        *("--images-per-class", 2),
    )
    assert code == 0, written
    fits = [line for line in frames(written) if "━" in line or line[:5] == "Epoch"]
    assert len(fits) > 4
    assert max(map(len, fits)) <= 80
    shown = "\n".join(frames(written))
    assert shown.startswith("Starting TensorFlow ...")
    moving = r"Epoch 1/2 ━.* loss \d+\.\d\d accuracy \d+% [\d,]+ images/s \d:\d\d left"
    assert re.search(moving, shown)
    assert re.search(r"Epoch 2/2 .* accuracy \d+% validation \d+% ", shown)
    assert re.search(r"^Training the head ━.*images/s", shown, re.M)
    kept = left_over(written)
    epochs = [line for line in kept if line.startswith("Epoch")]
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"]
    assert "━" not in "".join(kept)
    assert "Starting" not in "".join(kept)
    # The last epoch promises no end: more is to come.
    assert "left" in epochs[0]
    assert "left" not in epochs[1]


def test_the_line_of_an_epoch_fits_a_terminal(monkeypatch):
    """With an hour left of a hundred epochs."""
    from keras_apinet.train import progress

    seconds = iter([1.0, 46.0])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(progress, "time", clock)
    said = []
    line = progress.EpochLine(said.append, None, 100, 104, 48)
    line.on_epoch_begin(0)
    line.steps_done = 104
    figures = {"loss": 2.3456, "accuracy": 0.9876, "val_accuracy": 0.912}
    line.on_epoch_end(0, figures)
    assert said == [
        "Epoch 1/100 loss 2.35 accuracy 98.8% validation 91.2% 111 images/s "
        "1:14:15 left"
    ]
    assert len(said[0]) < 80


def test_no_line_moves_where_there_is_no_terminal(capfd):
    with phase("Counting", 3) as moved:
        moved(1)
    assert capfd.readouterr() == ("", "")


def test_a_phase_says_how_many_how_fast_and_how_long():
    code = (
        "from unittest import mock; from keras_apinet import progress\n"
        "seconds = iter([0.0, 10.0, 20.0])\n"
        "clock = mock.Mock(monotonic=lambda: next(seconds))\n"
        "with mock.patch.object(progress, 'time', clock):\n"
        "    with progress.lines_shown(True):\n"
        "        with progress.phase('Counting', 9000, 'sheep', done=1000) as moved:\n"
        "            moved(2000)\n"
        "            moved.line.refresh()\n"
        "            print('a word')\n"
        "print('done')"
    )
    written, _ = on_terminal("-c", code)
    # 1,000 in 10 s, and 7,000 to go.
    assert any(
        re.fullmatch(r"Counting ━.* 2,000/9,000 100 sheep/s 1:10 left", line)
        for line in frames(written)
    )
    assert left_over(written) == ["a word", "done"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (3725, "1:02:05")]
)
def test_clock(seconds, said):
    assert clock(seconds) == said


def test_what_native_code_says_goes_to_a_file(tmp_path):
    code = (
        "import os, sys; from keras_apinet.cli.startup import *\n"
        "messages_aside(); os.write(2, b'noise of a library')\n"
        "print('a word', file=sys.stderr); keep_messages(sys.argv[1])"
    )
    written, _ = on_terminal("-c", code, tmp_path)
    assert left_over(written) == ["a word"]
    assert (tmp_path / "messages.log").read_bytes() == b"noise of a library"


def test_native_code_that_aborts_leaves_a_word():
    code = (
        "import os; from keras_apinet.cli.startup import messages_aside\n"
        "messages_aside(); os.abort()"
    )
    written, code = on_terminal("-c", code)
    assert code < 0
    assert "Fatal Python error: Aborted" in written
