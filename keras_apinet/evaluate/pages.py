"""The package's Jinja2 templates, and the model card."""

import functools
import html
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_apinet.errors import APINetError, printable
from keras_apinet.evaluate.measures import calibration_words
from keras_apinet.files.io import digest_of
from keras_apinet.files.outputs import MARKDOWN_MARK, check_output, write_output
from keras_apinet.files.run_shapes import file_of
from keras_apinet.runs import Run
from keras_apinet.shares import TITLES, cells, interval, percent, probability

_NONE = "\N{EN DASH}"


def need(*modules: str) -> None:
    """Checks that optional packages are installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise APINetError(
                f"This needs the package {module!r}, which is not installed; install "
                "it with: pip install 'keras-apinet[report]'"
            ) from error


def _known(form: Callable[[float], str], value: float | None) -> str:
    return _NONE if value is None else form(value)


def _shown(value: Any) -> Any:
    """Makes names of files and classes safe to print; markup is unchanged."""
    return printable(value) if type(value) is str else value


@functools.cache
def templates() -> Any:
    """The Jinja2 environment of the package's templates, with HTML escaping."""
    need("jinja2")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_apinet.evaluate"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for form in (percent, probability):
        environment.filters[form.__name__] = functools.partial(_known, form)
    environment.filters["ends"] = lambda pair: interval(*pair)
    environment.globals |= {"titles": TITLES, "cells": cells}
    return environment


def rendered(template: str, **values: Any) -> str:
    """Renders a template."""
    return str(templates().get_template(template).render(values))


# Metrics that the card omits.
_DETAILS = ("macro_precision", "macro_recall", "recall@5")
# Licenses that model hubs know; any other is "other" with a name.
_KNOWN_LICENSES = (
    "agpl-3.0",
    "apache-2.0",
    "artistic-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-2.0",
    "gpl-3.0",
    "isc",
    "lgpl-3.0",
    "mit",
    "mpl-2.0",
    "unlicense",
)


def evaluation_of(run: Run, split: str | None = None) -> dict[str, Any]:
    """A run's stored evaluation on a split; by default test, otherwise val."""
    wanted = [split] if split else ["test", "val"]
    known = (run.read(f"evaluation_{name}.json") for name in wanted)
    for result in filter(None, known):
        return dict(result)
    raise APINetError(
        f"The run {str(run.folder)!r} has not been evaluated on {' or '.join(wanted)}; "
        "run `keras-apinet evaluate` on it first."
    )


def write_card(
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    license_name: str | None = None,
    force: bool = False,
) -> Path:
    """Writes a Markdown model card: data, recipe, metrics with intervals, limitations.

    Args:
        run: A run, or its folder; it must have been evaluated.
        out: The file. Defaults to `MODEL_CARD.md` in the run folder.
        split: The split to report. Defaults to `"test"`, or to `"val"` if only that was
            evaluated.
        license_name: License of the model, as an SPDX name such as `"Apache-2.0"`. By
            default, the card says that none was stated.
        force: Whether to replace an `out` that this package wrote. The run's own card
            is always rewritten.

    Returns:
        The path of the file.

    Raises:
        APINetError: If the run was not evaluated on the split, or `out` exists.
    """
    run = Run.open(run)
    path = run.folder / "MODEL_CARD.md" if out is None else Path(out)
    force = force or out is None
    check_output(path, "Markdown file", force)
    result = evaluation_of(run, split)
    if "warnings" not in result:
        raise APINetError(
            f"The run {str(run.folder)!r} was evaluated by an earlier version, which "
            "did not store the number of images; run `keras-apinet evaluate` on it "
            "again."
        )
    told = run.description["data"]
    need("jinja2")
    from markupsafe import Markup

    name = run.folder.resolve().name
    text = rendered(
        "card.md",
        # Markup: line breaks of YAML must not be escaped.
        metadata=Markup(_metadata(name, result, license_name)),
        text=as_text,
        name=name,
        data=Path(result["data"]).name,
        trained_on=Path(told.get("load", {}).get("name") or result["data"]).name,
        result=result,
        figures=[
            (title, cells(key, result["metrics"][key]))
            for key, title in TITLES.items()
            if key in result["metrics"] and key not in _DETAILS
        ],
        settings={k: public(v) for k, v in run.settings.items() if v is not None},
        images=told.get("images", {}),
        fingerprint=told.get("fingerprint"),
        versions=run.description["versions"],
        class_names=run.class_names,
        image_size=run.image_size,
        calibration=calibration_words(result),
        warnings=result["warnings"],
        unknown=unknown_words(run, result),
        advice=advice_words(run, result)[:10],
        license_name=license_name,
        # Ties: more images first, as they are more certain.
        lowest=[
            (
                row["class"],
                percent(row["accuracy"]),
                row["images"],
                interval(*row["intervals"]["recall"]),
            )
            for row in sorted(
                result["per_class"], key=lambda row: (row["accuracy"], -row["images"])
            )[:5]
        ],
    )
    write_output(path, f"{text.rstrip()}\n\n{MARKDOWN_MARK}\n", force)
    return path


def _still_true(run: Run, told: dict[str, Any]) -> list[str]:
    """Sentences whose threshold or families have not changed since."""
    if isinstance(told["sentences"], list):  # from an earlier version
        return list(told["sentences"])
    files = told.get("files", {})
    return [
        sentence
        for kind, sentence in told["sentences"].items()
        if kind in files and digest_of(run.folder / files[kind][0]) == files[kind][1]
    ]


def advice_words(run: Run, result: dict[str, Any]) -> list[str]:
    """The stored advice for the evaluated model."""
    found = run.read("advice.json") or {}
    same = found.get("model", "best") == result.get("model", "best")
    return found["advice"] if found and same else []


def unknown_words(run: Run, result: dict[str, Any]) -> list[str]:
    """Describes the handling of photos of none of the classes, as sentences."""
    which = result.get("model", "best")
    fitted = run.read(file_of("unknown.json", which))
    told = run.read(f"open_{result['split']}.json")
    words = []
    if fitted is not None:
        words.append(
            f"For a photo unlike all {len(run.class_names)} classes, the answer is "
            f"looks like none of these: the thresholds keep {fitted['keep']:.0%} of "
            f"{fitted.get('images', 0):,} held-out photos."
        )
    if told and told["model"] == which and told.get("data") in (None, result["data"]):
        words += _still_true(run, told)
    return words


def _metadata(name: str, result: dict[str, Any], license_name: str | None) -> str:
    """The YAML header of the card, without its fences."""
    need("huggingface_hub", "yaml")
    import yaml
    from huggingface_hub import EvalResult, ModelCardData

    tag, data = license_tag(license_name), Path(result["data"]).name
    header: Any = ModelCardData(
        license=tag,
        license_name=license_name if tag == "other" else None,
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["keras", "image-classification", "fine-grained", "api-net"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type=data,
                dataset_name=data,
                dataset_split=result["split"],
                metric_type="accuracy",
                metric_name="Top-1 accuracy",
                metric_value=round(result["metrics"]["top1"]["value"], 4),
            )
        ],
    )
    # `to_yaml()` does not escape characters that change the text direction.
    plain: str = yaml.safe_dump(header.to_dict(), sort_keys=False)
    return plain.rstrip()


def license_tag(name: str | None) -> str | None:
    """The hub's tag for a license: lower case, or "other" if the hub lacks it."""
    if not name:
        return None
    return name.lower() if name.lower() in _KNOWN_LICENSES else "other"


def public(value: Any) -> Any:
    """A setting without private paths: absolute paths are reduced to the name."""
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def as_text(value: Any) -> str:
    """Escapes a name for Markdown."""
    plain = html.escape(printable(" ".join(str(value).split())), quote=False)
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", plain)
