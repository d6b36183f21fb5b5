"""The pages: their commands and code run in order, and every setting they name exists.

Links are checked by `make docs`, which builds the pages strictly.
"""

import argparse
import importlib
import inspect
import json
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import keras_apinet
from keras_apinet.cli import main, parse, parser
from keras_apinet.data import birds
from keras_apinet.train import Recipe

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))
pytestmark = [pytest.mark.one_backend, pytest.mark.slow]

# What makes a training of a page small. Every `keras-apinet train` gets these on top.
SMALL = """--backbone tiny --weights none --image-size 32 --pooling average
--dtype float32 --epochs 1 --head-epochs 0 --steps-per-epoch 2 --classes-per-batch 4
--images-per-class 2 --mutual-units 4 --memory-size 0 --ema-momentum 0
--gradient-accumulation-steps 1 --freeze-fraction 0 --cached-views 0 --quiet"""
# What a page's blocks say, and what runs in its place: less data, fewer epochs, and no
# downloads. All that is left out of a command for good is in `words`.
REPLACED = {
    "phone": [
        ("range(6)", "range(2)"),
        ("range(60)", "range(6)"),
        ("--sheet pairs.png", "--sheet pairs.png --image-size 32"),
        ("evaluate runs/photos", "evaluate runs/photos --bootstrap 20"),
        # A network that was trained for two steps agrees with nobody.
        (
            "--precision int8",
            "--precision int8 --min-agreement 0 --max-logit-difference 9",
        ),
    ],
    "cub": [
        ("training/", f"{ROOT}/training/"),
        ("--download", "--data synthetic_birds"),
        ("--split val", "--split val --bootstrap 20"),
        ("--split test", "--split test --bootstrap 20"),
    ],
    "against_a_baseline": [
        ("(0, 1, 2)", "(0, 1)"),
        ("seed=seed)", "seed=seed, **small)"),
    ],
    "shop": [
        ("range(40)", "range(8)"),
        ("range(6)", "range(4)"),
        ("species < 5", "species < 3"),
        ("--split val", "--split val --bootstrap 20"),
    ],
    "backbones": [],
    "long_tails": [],
    "report": [("--data kept_aside", "--bootstrap 20")],
}


def blocks(page):
    """The fenced blocks of a page, in order: (language, text)."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)


def commands(text):
    """The `keras-apinet` commands of a block, without variables and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"^(KERAS_BACKEND=\w+|\s)+", "", line)
        if line.count("'") == 1:  # the end of what another command is given
            line = line.replace("'", "")
        if line.startswith("keras-apinet "):
            yield line.split(" > ")[0].removeprefix("keras-apinet ")


@pytest.fixture
def few_birds(monkeypatch, tmp_path):
    """`synthetic_birds` with a few pictures, and a folder to work in."""
    few = {"train": 4, "val": 1, "test": 1}
    monkeypatch.setattr(birds, "PER_SPECIES", few)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def run_page(page):
    """Runs all blocks of a page, with what `REPLACED` says; the names they leave."""
    small = vars(parser().parse_args(["train", *shlex.split(SMALL)]))
    settings = {name: small[name] for name in Recipe().asdict() if name in small}
    names = {"small": settings, "__name__": page}
    left = dict(REPLACED[page])
    for language, text in blocks(page):
        if language not in ("bash", "python"):
            continue
        for real, less in REPLACED[page]:
            if real in text:
                text = text.replace(real, less)
                left.pop(real, None)
        if language == "python":
            exec(compile(text, f"{page}.md", "exec"), names)
        for words in map(shlex.split, commands(text) if language == "bash" else ()):
            if words[0] == "train" and "--resume" not in words:
                words += shlex.split(SMALL)
            assert main(words) == 0, words
    assert not left, f"not in {page}.md: {left}"
    return names


@pytest.mark.slow
def test_your_own_photos_to_a_phone(few_birds, capsys):
    run_page("phone")
    assert (few_birds / "pairs.png").stat().st_size > 1000
    assert (few_birds / "runs/photos/report.html").stat().st_size > 10_000
    assert (few_birds / "compare.png").stat().st_size > 10_000
    size = (few_birds / "birds.tflite").stat().st_size
    assert 300_000 < size < 600_000  # 8 bits for each of half a million weights
    assert "Finch" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.slow
def test_a_shop(few_birds, capsys):
    names = run_page("shop")
    assert len(names["smaller"].class_names) == 3
    assert (few_birds / "audit.html").is_file()
    assert (few_birds / "runs/week_2/advice.json").is_file()
    assert "Finches" in (few_birds / "runs/week_4/photos.csv").read_text("utf-8")


def test_cub(few_birds, capsys):
    run_page("cub")
    for run in ("cub_jax", "cub_tf"):
        assert (few_birds / "runs" / run / "best.keras").is_file()
    described = json.loads((few_birds / "runs/cub_jax/run.json").read_text("utf-8"))
    # From the recipe, as nothing on the command line says it.
    assert described["settings"]["resize"] == "squash"
    assert list((few_birds / "runs/cub_jax").glob("*.tflite"))


def test_against_a_baseline(few_birds):
    names = run_page("against_a_baseline")
    assert len(list((few_birds / "runs").iterdir())) == 4
    assert names["low"] <= names["mean"] <= names["high"]
    # Two differences of 0 and 0.2: the mean is 0.1, its standard error 0.1, and
    # Student's t with one degree of freedom 12.706.
    mean, low, high = names["interval"](names["np"].array([0.0, 0.2]))
    assert (mean, low, high) == pytest.approx((0.1, -1.1706, 1.3706), abs=1e-4)


def test_own_backbone(few_birds):
    (code,) = (text for language, text in blocks("backbones") if language == "python")
    names = {}
    exec(compile(code, "backbones.md", "exec"), names)
    assert names["model"].feature_size == 64


@pytest.mark.slow
def test_the_notebook_runs(few_birds, monkeypatch, capsys):
    """Its code cells in order, with a quarter of its pictures and one epoch."""
    monkeypatch.setattr(birds, "PER_SPECIES", {"train": 100, "val": 20, "test": 1})
    notebook = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    code = "\n".join("".join(cell["source"]) for cell in cells)
    for real, less in (("epochs=6", "epochs=1"), ('"train"]), 5)', '"train"]), 20)')):
        assert code.count(real) == 1
        code = code.replace(real, less)
    code = code.replace("few.read(20 * species)", "few.read(5 * species)")
    exec(compile(code, "tour.ipynb", "exec"), {"__name__": "tour"})
    said = capsys.readouterr().out
    outputs = [output for cell in cells for output in cell["outputs"]]
    shown = "".join(line for output in outputs for line in output.get("text", []))
    # The figures are those of another machine, the words and numbers of images are not.
    assert shown.splitlines()[0] == "{'train': 1800, 'val': 360, 'test': 540}"
    for words in ("(36, 64, 64, 3)", "(72,) True", "| same top-1 class "):
        assert words in said
        assert words in shown
    pictures = [output for output in outputs if "data" in output]
    assert len(pictures) == len(re.findall(r"plt\.subplots", code)) == 2
    assert "%" in said.splitlines()[-1]
    assert "%" in shown.splitlines()[-1]


def options_of(command):
    return {
        option
        for action in command._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def command_parsers():
    (sub,) = (
        action
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return sub.choices


@pytest.mark.parametrize("page", [*PAGES, "../README"])
def test_commands_are_commands(page):
    for _, text in blocks(page):
        for command in commands(text):
            words = shlex.split(re.sub(r"\$\S+", "0", command))
            placeholders = {"I": "0", "M": "1", "N": "1"}
            parse([placeholders.get(word, word) for word in words])


@pytest.mark.parametrize("page", [*PAGES, "../README"])
def test_settings_exist(page):
    """Options in running text, and `name=value` in Python."""
    text = (DOCS / f"{page}.md").read_text("utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    spans = re.findall(r"`([^`]+)`", text)
    known = set().union(*map(options_of, command_parsers().values()))
    foreign = {"--signal", "--help"}
    for span in spans:
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", span):
            assert option in known | foreign, (page, span)
    arguments = set(Recipe().asdict())
    for room in ("layers", "losses", "backbones", "data", "evaluate", "export"):
        names = getattr(keras_apinet, room)
        things = [getattr(names, n) for n in getattr(names, "__all__", ())]
        for thing in (*things, keras_apinet.build, keras_apinet.APINet):
            if callable(thing):
                arguments |= set(inspect.signature(thing).parameters)
    for span in spans:
        name = re.match(r"([a-z_]+) ?= ?[\"'\w.]+$", span)
        assert not name or name[1] in arguments, (page, span)


def test_the_reference_has_every_public_name():
    text = "\n".join(
        path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md")
    )
    told = set(re.findall(r"^::: keras_apinet\.(?:\w+\.)*(\w+)$", text, re.M))
    told |= set(re.findall(r"`([A-Z_]+)`", text))
    rooms = {"backbones", "data", "evaluate", "export", "layers", "losses", "train"}
    for room in rooms:
        names = getattr(keras_apinet, room)
        assert set(getattr(names, "__all__", ())) <= told, room
    assert set(keras_apinet.__all__) - rooms - {"__version__"} <= told


def test_public_names_stay_what_they_are():
    """A module of the same name would take a function's place once it is imported."""
    for info in pkgutil.walk_packages(keras_apinet.__path__, "keras_apinet."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    for room in ("backbones", "data", "evaluate", "export", "layers", "train"):
        names = getattr(keras_apinet, room)
        for name in names.__all__:
            assert not inspect.ismodule(getattr(names, name)), (room, name)


def test_the_inside_page_names_files_that_exist():
    text = (DOCS / "inside.md").read_text("utf-8")
    block = text.split("## From a photo to the step")[1].split("```")[1]
    names, folder = re.findall(r"`([\w/]+\.py)`", text), ""
    for line in block.split("\n"):
        name = (line.split() or [""])[0]
        if re.fullmatch(r"[\w/]+(\.py|/)", name) and "data/" in name:
            folder = name if name.endswith("/") else ""
            names.append(name)
        elif name.endswith(".py"):
            names.append(folder + name)
    assert len(names) > 40
    assert "data/photos/preprocessing.py" in names
    package = ROOT / "keras_apinet"
    assert [
        n for n in names if not any((r / n).exists() for r in (package, ROOT))
    ] == []


def test_every_page_is_in_the_navigation():
    listed = (ROOT / "mkdocs.yml").read_text("utf-8")
    for path in DOCS.rglob("*.md"):
        assert f": {path.relative_to(DOCS).as_posix()}" in listed
