"""Finds what the graph of a SavedModel could do besides computing, without running it.

A SavedModel is a program, and some TensorFlow operations read and write files, open
connections or call Python. The content of a folder cannot prove who wrote it, so this
checks what would run: every function of the graph must consist only of operations that
compute. Anything that is not known to be harmless is rejected.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from keras_apinet.errors import APINetError, printable

# Protocol buffers are limited to 2 GB; a graph without its weights is far smaller.
_LARGEST_GRAPH = 256 * 2**20
# Stateful operations: the model's variables, calls, loops and checks.
_STATEFUL = {
    "Assert",
    "AssignVariableOp",
    "DisableCopyOnRead",
    "If",
    "PartitionedCall",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "StatefulPartitionedCall",
    "VarHandleOp",
    "VarIsInitializedOp",
    "VariableShape",
    "While",
}
# Operations with strings that are never files or programs: the bytes of photos,
# patterns, names of methods. The data sets consist of tensors in memory, to which they
# apply a function of the graph, which is checked like all others.
_WITH_TEXTS = {
    "DecodeJpeg",
    "DecodePng",
    "DecodeRaw",
    "Einsum",
    "ExtractJpegShape",
    "FilterDataset",
    "MapDataset",
    "ReduceDataset",
    "ScaleAndTranslate",
    "StaticRegexFullMatch",
    "StaticRegexReplace",
    "StringLength",
    "StringToNumber",
    "Substr",
    "TensorDataset",
}
# Written by TensorFlow for saving and restoring; the loader runs none of them.
_SAVING = re.compile(r"__inference__traced_(save|restore)_\d+")
# Objects that the loader creates without running anything.
_KINDS = {
    "user_object",
    "function",
    "bare_concrete_function",
    "variable",
    "constant",
    "captured_tensor",
}
_USER_OBJECTS = {
    "_generic_user_object",
    "signature_map",
    "trackable_dict_wrapper",
    "trackable_list_wrapper",
    "trackable_tuple_wrapper",
}


def check_saved_model(folder: Path) -> None:
    """Checks that loading and running a SavedModel can only compute."""
    found = next(_suspicious(folder), None)
    if found:
        raise APINetError(
            f"{str(folder)!r} is a SavedModel that does more than classify: "
            f"{printable(found)[:200]}; it could read or write files as you; open it "
            "only if you know who made it, with trust=True (on the command line: "
            "--trust)."
        )


def _suspicious(folder: Path) -> Iterator[str]:
    """Yields everything that is not known to be harmless."""
    file = folder / "saved_model.pb"
    if file.stat().st_size > _LARGEST_GRAPH:
        yield f"its graph has {file.stat().st_size:,} bytes"
        return
    content = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    if len(content.meta_graphs) != 1:
        yield f"it has {len(content.meta_graphs)} graphs"
        return
    graph = content.meta_graphs[0]
    if not graph.HasField("object_graph_def"):
        yield "it is of TensorFlow 1, whose graphs run when they are loaded"
        return
    library = graph.graph_def.library.function
    names = {function.signature.name for function in library}
    saving = {name for name in names if _SAVING.fullmatch(name)}
    for function in library:
        name = function.signature.name
        if name in saving:
            continue
        if "api_implements" in function.attr:
            yield f"the function {name!r} stands for another"
        for node in function.node_def:
            called = {node.op, *_called(node.attr)}
            if called & saving:
                yield f"the function {name!r} saves or restores files"
            if node.op not in names and not _computes(node.op):
                yield f"the operation {node.op!r} in the function {name!r}"
    for node in graph.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind not in _KINDS:
            yield f"an object of the kind {kind!r}"
        if kind == "user_object" and node.user_object.identifier not in _USER_OBJECTS:
            yield f"an object of the kind {node.user_object.identifier!r}"
        if node.saveable_objects or node.registered_saver:
            yield "an object that restores itself"
        functions = {*node.function.concrete_functions}
        functions.add(node.bare_concrete_function.concrete_function_name)
        if functions & saving:
            yield "a function that saves or restores files"


def _called(attributes: Any) -> Iterator[str]:
    """Returns the names of the functions in a node's attributes."""
    for value in attributes.values():
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
                yield from _called(function.attr)


def _computes(name: str) -> bool:
    """Whether an operation only computes: no state, no strings, nothing unknown."""
    if name in _STATEFUL or name in _WITH_TEXTS:
        return True
    operation = op_def_registry.get(name)
    if operation is None or operation.is_stateful or name.startswith("_"):
        return False
    texts = [
        argument.type_attr == "" and argument.type == 7  # DT_STRING
        for argument in (*operation.input_arg, *operation.output_arg)
    ]
    texts += [
        attribute.type in ("string", "list(string)")
        and not attribute.HasField("allowed_values")
        for attribute in operation.attr
    ]
    return not any(texts)
