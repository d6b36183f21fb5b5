"""What the pages need beyond MkDocs: equations, settings, docstrings as Markdown."""

import dataclasses
import re
from typing import Any

import griffe
from latex2mathml.converter import convert

from keras_apinet.train import Recipe


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the settings; makes `$...$` MathML on pages with `math: true` on top."""
    markdown = markdown.replace("<!-- settings -->", settings())
    if not page.meta.get("math"):
        return markdown
    markdown = re.sub(
        r"\$\$(.+?)\$\$",
        lambda m: f'<div class="equation">{convert(m[1].strip(), "block")}</div>',
        markdown,
        flags=re.S,
    )
    return re.sub(
        r"\$([^$\n]+)\$", lambda m: f"<span>{convert(m[1].strip())}</span>", markdown
    )


def settings() -> str:
    """All settings of a training, as a table."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(Recipe):
        text = field.metadata["text"]
        if field.metadata["choices"]:
            choices = ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
            text += f"; one of {choices}"
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{field.name}` | {default} | {text} |")
    return "\n".join(rows)


class Plain(griffe.Extension):
    """Brings docstrings into the Markdown that the pages are made of."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        """Rewrites one docstring."""
        if isinstance(obj, griffe.Object) and obj.docstring:
            obj.docstring.value = plain(fenced(obj.docstring.value))


def fenced(text: str) -> str:
    """Puts `>>>` examples, which Markdown takes for quotations, in fences."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.strip().startswith(">>> ") and not inside:
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line.strip() if inside else line)
    return "\n".join([*lines, "```"] if inside else lines)


_HEADINGS = ("Call arguments:", "Returns:", "Yields:", "Example:", "Reference:")


def plain(text: str) -> str:
    """Makes a bold heading with text of what would be read as `type: description`."""
    lines: list[str] = []
    heading = ""
    for line in text.splitlines():
        if line in _HEADINGS:
            heading = line
            lines += ["", f"**{heading[:-1]}**", ""]
            continue
        if line and not line.startswith(" "):
            heading = ""
        if heading:
            line = line.removeprefix("    ")
        if heading == "Call arguments:":
            line = re.sub(r"^(\w+): ", r"- **`\1`**: ", line)
        lines.append(line)
    return "\n".join(lines)
