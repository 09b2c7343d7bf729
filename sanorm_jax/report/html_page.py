"""One self-contained HTML page of results, for screens of any width and for print.

Figures are inlined, plots as SVG and pictures as PNG. The content security policy
forbids loading anything. Markup, style and script are in the folder `templates`.
"""

import base64
import dataclasses
import functools
import hashlib
import numbers
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sanorm_jax.core import files
from sanorm_jax.drawing import figures


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report, shown in the order of its fields.

    Attributes:
      title: Heading, and entry of the table of contents; empty for a part of the
        section before.
      text: Paragraphs, divided by empty lines; `words in backticks` become code.
      explorer: Content of an interactive part, as `study.explorer` describes it.
      figure: Figure, or PNG file.
      caption: Caption of the figure; also its description for screen readers.
      table: Rows as mappings from column to value; the first column names the row.
        Columns are those of all rows; missing values stay empty.
      table_caption: Caption of the table.
      code: Command or settings, verbatim.
    """

    title: str
    text: str = ""
    explorer: Mapping[str, Any] | None = None
    figure: Figure | pathlib.Path | None = None
    caption: str = ""
    table: Sequence[Mapping[str, Any]] = ()
    table_caption: str = ""
    code: str = ""


def write_report(
    path: pathlib.Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    footer: str = "",
) -> pathlib.Path:
    """Write an HTML file atomically, creating its folder, and return its path."""
    templates = _templates()
    interactive = any(section.explorer for section in sections)
    page = templates.get_template("page.html").render(
        title=title,
        sections=sections,
        summary=summary,
        footer=footer,
        style=_source(templates, "page.css")
        + (_source(templates, "explorer.css") if interactive else ""),
        script=_source(templates, "explorer.js") if interactive else "",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # ASCII reads the same in any encoding.
    files.write(path, page.encode("ascii", "xmlcharrefreplace"))
    return path


@functools.cache
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("sanorm_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "code": _code,
        "columns": _columns,
        "digest": _digest,
        "image": _image,
        "number": _number,
        "paragraphs": lambda text: re.split(r"\n\s*\n", text.strip()),
        "plain": lambda text: text.replace("`", ""),
    }
    return templates


def _source(templates: jinja2.Environment, name: str) -> Markup:
    return Markup(templates.loader.get_source(templates, name)[0])


def _code(text: str) -> Markup:
    """Return a text with the words between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _digest(script: str) -> str:
    """Return the name of the only permitted script in a content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return Markup(f"sha256-{base64.b64encode(digest).decode()}")


def _image(figure: Figure | pathlib.Path) -> dict[str, str]:
    """Return the source and the style of a figure's element."""
    kind, style = "image/png", "max-width:100%"
    if isinstance(figure, pathlib.Path):
        content = figure.read_bytes()
    else:
        if any(axis.images for axis in figure.axes):
            content = figures.encode(figure, ".png")
        else:
            kind, content = "image/svg+xml", figures.encode(figure, ".svg")
        # On a narrow screen, a figure shrinks to the minimum readable width, then
        # scrolls.
        width = figure.get_figwidth()
        style = f"width:100%;max-width:{width * 130:.0f}px;min-width:{width * 66:.0f}px"
    data = base64.b64encode(content).decode()
    return {"source": f"data:{kind};base64,{data}", "style": style}


def _columns(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the columns of all rows, and whether they hold numbers alone."""
    names = dict.fromkeys(name for row in table for name in row)
    return [
        {"name": n, "numeric": all(_is_number(r[n]) for r in table if n in r)}
        for n in names
    ]


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _number(value: Any) -> str:
    if value is None:
        return ""
    if _is_number(value) and not isinstance(value, numbers.Integral):
        value = float(value)
        return f"{value:.3f}" if 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"
    return str(value)
