"""What exists is safe: refused without --force, and with it unless it is ours."""

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from evaluate_runs import make_run, photos
from PIL import Image

from keras_apinet import data
from keras_apinet.cli import main
from keras_apinet.evaluate import pages as cards
from keras_apinet.files.io import partial_folder, replacing, sweep, write_atomically

pytestmark = pytest.mark.one_backend

# Command -> its arguments, where it writes, and what somebody else may have there.
COMMANDS = {
    "report": ("report {run} --out {out}/report.html", "report.html"),
    "card": ("card {run} --out {out}/card.md", "card.md"),
    "page": ("compare {a} {b} --model {run} --no-patches --out {out}/c.html", "c.html"),
    "png": ("compare {a} {b} --model {run} --no-patches --out {out}/c.png", "c.png"),
    "svg": ("compare {a} {b} --model {run} --no-patches --out {out}/c.svg", "c.svg"),
    "sheet": ("data {data} --image-size 32 --sheet {out}/s.jpg", "s.jpg"),
    "map": ("predict {run} {a} --map {out}", "a.map.png"),
    "tflite": ("export {run} --no-verify --out {out}/m.tflite", "m.tflite"),
    "onnx": ("export {run} --no-verify --format onnx --out {out}/m.onnx", "m.onnx"),
    "folder": ("export {run} --no-verify --format saved_model --out {out}/m", "m"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run that was evaluated, its data, and two photos."""
    folder = tmp_path_factory.mktemp("place")
    table = photos(folder)
    for name, colour in (("a", "red"), ("b", "green")):
        Image.new("RGB", (40, 40), colour).save(folder / f"{name}.png")
    run = make_run(folder / "run", table, data.load(table).class_names)
    assert main(["evaluate", str(run), "--bootstrap", "0"]) == 0
    return {"run": run, "data": table, "a": folder / "a.png", "b": folder / "b.png"}


def call(name, place, out, *more):
    line, _ = COMMANDS[name]
    return main([*line.format(**place, out=out).split(), *more])


def everything(folder):
    """Names, kinds and contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else path.is_dir()
        found[path.relative_to(folder).as_posix()] = (path.is_symlink(), content)
    return found


def other_page(path, place):
    path.write_text("<!doctype html>\n<title>Of keras-apinet, but mine</title>")


def other_picture(path, place):
    figure = plt.figure()
    plt.close(figure)
    known = path.suffix[1:] in ("png", "svg", "jpg")
    figure.savefig(path, format=path.suffix[1:] if known else "png")


def link(path, place):
    (path.parent / "elsewhere").write_text("precious")
    path.symlink_to(path.parent / "elsewhere")


STRANGERS = {
    "text": lambda path, place: path.write_text("precious"),
    "empty": lambda path, place: path.write_bytes(b""),
    "model": lambda path, place: path.write_bytes(
        (place["run"] / "best.keras").read_bytes()
    ),
    "page": other_page,
    "picture": other_picture,
    "link": link,
    "link to nothing": lambda path, place: path.symlink_to("nowhere"),
    "pipe": lambda path, place: os.mkfifo(path),
    "full folder": lambda path, place: (path / "mine").mkdir(parents=True),
}


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["plain", "force"])
@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("name", COMMANDS)
def test_files_of_others_are_never_replaced(
    name, stranger, force, place, tmp_path, capsys
):
    target = tmp_path / COMMANDS[name][1]
    STRANGERS[stranger](target, place)
    before = everything(tmp_path)
    assert call(name, place, tmp_path, *force) == 2
    error = capsys.readouterr().err
    assert repr(str(target)) in error
    assert error.startswith("keras-apinet: error: ")
    assert error.count("\n") == 1
    assert everything(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_what_we_wrote_is_replaced_with_force_only(name, place, tmp_path, capsys):
    target = tmp_path / COMMANDS[name][1]
    before = os.umask(0o027)
    try:
        assert call(name, place, tmp_path) == 0
    finally:
        os.umask(before)
    made = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.stat().st_mode & 0o777 for p in made} == {0o640}
    written = everything(tmp_path)
    assert call(name, place, tmp_path) == 2
    assert "give --force" in capsys.readouterr().err
    assert everything(tmp_path) == written
    target.chmod(target.stat().st_mode | 0o004)
    assert call(name, place, tmp_path, "--force") == 0
    assert everything(tmp_path).keys() == written.keys()
    if name != "folder":
        assert target.stat().st_mode & 0o777 == 0o644
        target.chmod(0o444)
        assert call(name, place, tmp_path, "--force") == 2
        assert "read-only" in capsys.readouterr().err


@contextlib.contextmanager
def full(size):
    """Lets every file that grows beyond some bytes fail, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk is not permitted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("name", ["png", "folder"])
def test_a_disk_that_is_really_full(name, place, small_disk, capsys):
    (small_disk / "mine").write_bytes(b"x" * (60 << 10))
    before = everything(small_disk)
    assert call(name, place, small_disk) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    target = small_disk / COMMANDS[name][1]
    assert f"{str(target)!r} cannot be written (No space left on device)" in error
    assert everything(small_disk) == before


@pytest.mark.parametrize("name", [*COMMANDS, "evaluate", "train"])
def test_a_full_disk_leaves_nothing_half_written(name, place, tmp_path, capsys):
    root = place["run"].parent
    before = everything(root)
    with full(512):
        if name == "evaluate":
            (place["run"] / "calibration.json").unlink()
            # Not the evaluation that is there: that would not be written again.
            line = ["evaluate", str(place["run"]), "--bootstrap", "0", "--tta", "flip"]
            assert main(line) == 2
            named = place["run"] / "evaluation_test.json"
        elif name == "train":
            line = f"train --data {place['data']} --backbone tiny --image-size 32"
            assert main([*line.split(), "--out", f"{tmp_path}/run"]) == 2
            named = tmp_path / "run" / "run.json"
        else:
            assert call(name, place, tmp_path) == 2
            named = tmp_path / COMMANDS[name][1]
    # Loggers that write to a full disk complain there, too.
    said = capsys.readouterr().err.splitlines()
    (error,) = (line for line in said if line.startswith("keras-apinet: error: "))
    # A report writes the evaluation first, unless it is what is there already.
    files = [named, place["run"] / "evaluation_test.json"]
    assert any(
        f" {str(file)!r} cannot be written (" in error
        for file in files[: 2 if name == "report" else 1]
    )
    assert not [p for p in tmp_path.rglob("*") if p.name not in ("run", "run.lock")]
    found = everything(root)
    found["run/calibration.json"] = before["run/calibration.json"]
    assert found == before


@pytest.mark.slow
def test_a_folder_with_files_of_others_stays_whole(place, tmp_path, capsys):
    assert call("folder", place, tmp_path) == 0
    notes = tmp_path / "m" / "assets" / "notes.txt"
    notes.write_text("precious")
    labels = tmp_path / "m" / "assets.extra" / "labels.txt"
    labels.write_text("mine")
    before = everything(tmp_path)
    assert call("folder", place, tmp_path, "--force") == 2
    assert "'assets.extra/labels.txt', 'assets/notes.txt'" in capsys.readouterr().err
    assert everything(tmp_path) == before
    # Of a folder that others made, not even an empty one inside it is ours.
    (tmp_path / "m" / "keras-apinet.json").unlink()
    assert call("folder", place, tmp_path, "--force") == 2
    assert "something other" in capsys.readouterr().err


def test_a_runs_own_pages_are_written_anew_unless_somebody_else_wrote_them(
    place, capsys
):
    run = place["run"]
    assert main(["card", str(run)]) == 0
    assert main(["card", str(run)]) == 0
    mine = {"MODEL_CARD.md": "card", "report.html": "report"}
    for name, command in {**mine, "evaluation_test.json": "evaluate"}.items():
        kept = (run / name).read_bytes() if (run / name).exists() else None
        (run / name).write_text('{"by": "me"}')
        assert main([command, str(run)]) == 2
        assert name in capsys.readouterr().err
        assert (run / name).read_text() == '{"by": "me"}'
        (run / name).unlink()
        if kept is not None:
            (run / name).write_bytes(kept)


def process(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


WRITER = """
import sys
from keras_apinet.files.io import partial_folder, replacing
with replacing(sys.argv[1]) as file, partial_folder(file.parent) as folder:
    file.write_text("half")
    (folder / "part").write_text("half")
    print("there", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    (tmp_path / ".keras-apinet-notes").write_text("precious")
    (tmp_path / ".keras-apinet-0123456789abcdef.png").symlink_to("nowhere")
    mine = set(tmp_path.iterdir())
    with process(WRITER, tmp_path / "a.txt") as writer:
        assert writer.stdout.readline() == "there\n"
        half = set(tmp_path.iterdir()) - mine
        assert len(half) == 2
        sweep(tmp_path, again=True)
        assert set(tmp_path.iterdir()) == mine | half  # its owner lives
        writer.kill()
    sweep(tmp_path, again=True)
    assert set(tmp_path.iterdir()) == mine


def test_an_error_in_the_middle_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / ("n" * 250 + ".txt")  # no room for a longer temporary name
    write_atomically(path, "old")
    with contextlib.suppress(RuntimeError), replacing(path) as file:
        file.write_text("half")
        raise RuntimeError
    with contextlib.suppress(RuntimeError), partial_folder(tmp_path) as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_command_that_is_told_to_end_cleans_up(tmp_path, monkeypatch, capsys):
    def stopped(*args, **options):
        with partial_folder(tmp_path):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(cards, "write_card", stopped)
    for number in (signal.SIGTERM, signal.SIGHUP):
        before = signal.getsignal(number)
        assert main(["card", "run"]) == 130
        assert "stopped" in capsys.readouterr().err
        assert not [*tmp_path.iterdir()]
        assert signal.getsignal(number) == before


def opened_by_a_reader(pipe, reader):
    """The end of a pipe to write to, as soon as a process (or its child) reads it."""
    while reader.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            with contextlib.suppress(subprocess.TimeoutExpired):
                reader.wait(0.1)
    raise AssertionError(f"ended with {reader.returncode}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="pipes are watched as Linux does")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_conversion_ends_with_the_process_that_started_it(number, tmp_path):
    os.mkfifo(tmp_path / "job.json")  # where the child waits, once it is there
    code = (
        "import signal, sys; from pathlib import Path\n"
        "from keras_apinet.export import child\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "try: child.convert_in_child([Path(sys.argv[1])])\n"
        "except KeyboardInterrupt: pass"
    )
    with process(code, tmp_path) as parent:
        pipe = opened_by_a_reader(tmp_path / "job.json", parent)
        gone = select.poll()
        gone.register(pipe, select.POLLERR)
        assert not gone.poll(0)
        parent.send_signal(number)
        assert gone.poll(60_000)
        os.close(pipe)


def test_every_write_goes_through_one_place():
    """No other module gives files their names or removes them."""
    package = Path(cards.__file__).parents[1]
    calls = ("os.replace(", "os.rename(", "shutil.rmtree(", "shutil.move(", ".rename(")
    for path in package.rglob("*.py"):
        text = path.read_text("utf-8")
        where = path.relative_to(package).as_posix()
        if where not in ("files/io.py", "export/exporter.py"):
            assert not [call for call in calls if call in text], path
