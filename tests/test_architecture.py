"""The rules of the house, read from the syntax tree; imports inside functions count."""

import ast
import itertools
import re
from functools import cache
from pathlib import Path

import pytest

from keras_apinet.cli import COMMANDS

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_apinet"
# From the ground up: a room imports from its own floor or those before it.
FLOORS = (
    {"errors", "types", "version", "files", "pixels", "shares"}
    | {"distribute", "compat", "progress"},
    {"layers", "losses", "backbones", "optimizers", "data"},
    {"model"},
    {"loading"},
    {"runs"},
    {"evaluate"},
    {"open_world"},
    {"train", "export"},
    {"cli"},
)


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _trees() -> dict[str, ast.Module]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {_name(file): ast.parse(file.read_text("utf-8")) for file in files}


@cache
def _programs() -> dict[str, ast.Module]:
    """What is run beside the package: benchmarks, recipes, examples of export."""
    folders = ("benchmarks", "training", "export")
    files = [
        file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))
    ]
    return {_name(file): ast.parse(file.read_text("utf-8")) for file in files}


@cache
def _imports() -> dict[str, frozenset[str]]:
    """Which modules of the package each module imports, types aside."""
    trees = _trees()
    found = {}
    for name, tree in trees.items():
        inside: set[str] = set()
        for node in _running(tree):
            if isinstance(node, ast.Import):
                inside |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    inside.add(whole if whole in trees else node.module)
        found[name] = frozenset(m for m in inside if m in trees and m != name)
    return found


def _running(tree: ast.AST):
    """Every node that is run: not those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _running(child)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _floor(module: str) -> int:
    room = _room(module)
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def test_every_room_stands_on_a_floor():
    rooms = {_room(name) for name in _trees()} - {"", "__main__"}
    assert rooms == set().union(*FLOORS)


def test_imports_run_down():
    up = [
        f"{importer} -> {imported}"
        for importer, modules in _imports().items()
        for imported in modules
        if _room(importer) and _room(imported) and _floor(imported) > _floor(importer)
    ]
    assert up == []


def test_data_needs_no_layer_and_no_model():
    above = {"layers", "losses", "backbones", "optimizers", "model", "loading"}
    found = [
        f"{importer} -> {imported}"
        for importer, modules in _imports().items()
        for imported in modules
        if _room(importer) == "data" and _room(imported) in above
    ]
    assert found == []


def test_no_circle():
    imports = {
        name: {m for m in modules if m != "keras_apinet"}
        for name, modules in _imports().items()
    }
    left = dict(imports)
    while True:
        free = [name for name, modules in left.items() if not modules & left.keys()]
        if not free:
            break
        for name in free:
            del left[name]
    assert sorted(left) == []


def test_small_modules_serve_several():
    alone = []
    for name in _trees():
        file = ROOT / (name.replace(".", "/") + ".py")
        if not file.is_file() or name.endswith("__main__") or _room(name) == "cli":
            continue
        lines = len(file.read_text("utf-8").splitlines())
        importers = [n for n, modules in _imports().items() if name in modules]
        if lines < 80 and len(importers) < 2:
            alone.append(f"{name}: {lines} lines, {len(importers)} importers")
    assert alone == []


def test_folders_hold_at_most_twelve_modules():
    for folder in {file.parent for file in PACKAGE.rglob("*.py")}:
        modules = [f for f in folder.glob("*.py") if not f.name.startswith("__")]
        # The command line has a file for each command, and two that they share.
        most = {PACKAGE: 14, PACKAGE / "cli": len(COMMANDS) + 2}.get(folder, 12)
        assert len(modules) <= most, folder


def test_files_are_short():
    long = {
        file.name: count
        for file in PACKAGE.rglob("*.py")
        if (count := len(file.read_text("utf-8").splitlines())) > 300
    }
    # A table, with an entry for each setting.
    assert {*long} <= {"recipe.py"}


def test_private_names_of_others_stand_in_one_file():
    trees = {**_trees(), **_programs()}
    nodes = {module: [*ast.walk(tree)] for module, tree in trees.items()}
    own = {"_exit"}
    for node in itertools.chain.from_iterable(nodes.values()):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    # A name of our own like one of Keras's would hide it.
    own -= {name for node in nodes.pop("keras_apinet.compat") for name in _named(node)}
    found = [
        f"{module}: {ast.unparse(node)}"
        for module, inside in nodes.items()
        for node in inside
        if any(re.match("_[^_]", name) and name not in own for name in _named(node))
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith(("keras.src", "keras._"))
        )
    ]
    assert found == []


def test_no_test_replaces_a_private_name():
    """What a benchmark's variant replaces may be put back."""
    found = []
    for file in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            target, name = (ast.unparse(argument) for argument in node.args[:2])
            itself = f"{target}.{name[1:-1]}"
            if (
                ast.unparse(node.func).endswith("setattr")
                and re.match("['\"]_[^_]", name)
                and [ast.unparse(value) for value in node.args[2:]] != [itself]
            ):
                found.append(f"{file.name}: {ast.unparse(node)}")
    assert found == []


def _named(node: ast.AST) -> list[str]:
    """The attribute that a node reads or sets, also by `getattr` and its like."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    by_name = {"getattr", "setattr", "hasattr", "delattr"}
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in by_name:
        return [str(arg.value) for arg in node.args[1:2] if hasattr(arg, "value")]
    return []


def test_options_are_not_abbreviated():
    parsers = [
        (module, node)
        for module, tree in {**_trees(), **_programs()}.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("Parser", "add_parser"))
    ]
    assert len(parsers) > 2  # the program, its commands, and the benchmarks
    found = [
        f"{module}: {ast.unparse(node)}"
        for module, node in parsers
        if "allow_abbrev=False" not in map(ast.unparse, node.keywords)
    ]
    assert found == []


def test_one_place_renames_files():
    users = [
        name
        for name, tree in _trees().items()
        if any(
            isinstance(node, ast.Attribute)
            and node.attr == "replace"
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            for node in ast.walk(tree)
        )
    ]
    assert users == ["keras_apinet.files.io"]


@pytest.mark.parametrize("word", ["get_close_matches", "exif_transpose"])
def test_one_copy_of_each_helper(word):
    users = [
        file.name for file in PACKAGE.rglob("*.py") if word in file.read_text("utf-8")
    ]
    assert len(users) == 1


def test_a_photo_passes_few_rooms_on_its_way_into_the_step():
    """`docs/inside.md` names the files it passes; they exist, in at most five rooms."""
    text = (ROOT / "docs" / "inside.md").read_text("utf-8")
    way = text[text.index("## What happens in a step") : text.index("## Where to")]
    files = set(re.findall(r"\b[a-z_]+(?:/[a-z_]+)*\.py\b", way))
    files = {f for f in files if "/" in f or (PACKAGE / f).is_file()}
    assert {"data/loading.py", "data/pipeline.py", "losses.py"} <= files
    assert [f for f in files if not (PACKAGE / f).is_file()] == []
    assert len({f.split("/")[0] for f in files}) <= 5


def test_a_report_is_made_of_at_most_ten_modules():
    room = "keras_apinet.evaluate."
    found, waiting = set(), [room + "report"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [m for m in _imports()[name] if m.startswith(room)]
    assert room + "plots" in found
    assert len(found) <= 10, sorted(found)
