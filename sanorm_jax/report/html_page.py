"""One HTML page of results: self-contained, for screens of any width and for print.

The page loads nothing: figures are inlined, drawn ones as SVG and pictures as PNG, and
its content security policy forbids the rest.
"""

import base64
import dataclasses
import html
import numbers
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError
from sanorm_jax.drawing import figures

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}

_STYLE = """
:root { color-scheme: light; --ink: #24292f; --soft: #5b6470; --line: #dfe3e8; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
    sans-serif; }
header, main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3rem; }
h1 { margin: 0; font-size: clamp(1.6rem, 1.2rem + 2vw, 2.25rem); line-height: 1.2;
  font-weight: 650; letter-spacing: -0.01em; text-wrap: balance; }
h2 { margin: 0 0 0.75rem; font-size: 1.3rem; line-height: 1.3; font-weight: 620; }
p { max-width: 68ch; margin: 0 0 1rem; }
header p { margin-top: 0.75rem; color: var(--soft); font-size: 1.125rem; }
nav ol { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin: 1.25rem 0 0;
  padding: 0; list-style: none; font-size: 0.9375rem; }
a { color: #0b5cad; text-underline-offset: 0.2em; text-decoration-thickness: 1px; }
section:not([id]) { border-top: 0; margin-top: 0; padding-top: 0; }
section[id] { padding: 1.75rem 0 0.5rem; border-top: 1px solid var(--line);
  margin-top: 1.5rem; }
figure { margin: 1.5rem 0; }
figure img { display: block; height: auto; max-width: none; }
figcaption, caption { color: var(--soft); font-size: 0.9375rem; line-height: 1.5;
  text-align: left; }
figcaption { max-width: 68ch; margin-top: 0.75rem; }
caption { padding-bottom: 0.6rem; caption-side: top; }
.box { overflow-x: auto; margin: 1.25rem 0; }
/* A shadow at the side where more is to be scrolled to. */
div.box[role] { background: linear-gradient(to right, #fff 30%, #fff0) left,
    linear-gradient(to left, #fff 30%, #fff0) right,
    linear-gradient(to right, #24292f24, #24292f00) left,
    linear-gradient(to left, #24292f24, #24292f00) right;
  background-repeat: no-repeat; background-size: 2.5rem 100%, 2.5rem 100%,
    0.75rem 100%, 0.75rem 100%;
  background-attachment: local, local, scroll, scroll; }
figure .box { margin: 0; }
.box:focus-visible, a:focus-visible { outline: 2px solid #0b5cad; outline-offset: 3px; }
table { border-collapse: separate; border-spacing: 0; font-size: 0.9375rem;
  line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 1rem 0.45rem 0; text-align: left; white-space: nowrap;
  vertical-align: baseline; }
tbody th { font-weight: 500; }
thead th:first-child, tbody th { position: sticky; left: 0; background: #fff; }
thead th { white-space: normal; vertical-align: bottom; }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
.number { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
code, pre { font: 0.875em/1.55 ui-monospace, SFMono-Regular, Menlo, "Liberation Mono",
  monospace; }
p code { background: #f3f5f7; padding: 0.1em 0.3em; border-radius: 3px;
  overflow-wrap: anywhere; }
pre { margin: 1.25rem 0; padding: 0.9rem 1rem; background: #f6f7f9; border-radius: 4px;
  overflow: auto; max-height: 26rem; }
footer { padding-top: 1.5rem; padding-bottom: 3rem; color: var(--soft);
  font-size: 0.875rem; }
@media print {
  body { font-size: 10pt; }
  header { padding-top: 0; }
  nav { display: none; }
  pre { max-height: none; white-space: pre-wrap; }
  figure, table { break-inside: avoid; }
  h2 { break-after: avoid; }
}
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report, shown in the order of its fields.

    Attributes:
      title: Heading, and entry of the table of contents; empty for a part of the
        section before.
      text: Paragraphs, divided by empty lines; `words in backticks` become code.
      figure: A figure, or a .png or .svg file.
      caption: What the figure shows; also its description for screen readers.
      table: Rows as mappings from column to value; the first column names the row.
        Columns are those of all rows; what a row lacks stays empty.
      table_caption: What the table shows.
      code: A command or settings, verbatim.
    """

    title: str
    text: str = ""
    figure: Figure | str | pathlib.Path | None = None
    caption: str = ""
    table: Sequence[Mapping[str, Any]] = ()
    table_caption: str = ""
    code: str = ""


def write_report(
    path: str | pathlib.Path,
    title: str,
    sections: Sequence[Section],
    *,
    summary: str = "",
    footer: str = "",
) -> pathlib.Path:
    """Write a report, whole or not at all.

    Args:
      path: The HTML file; its folder is made if it is missing.
      title: Heading of the page.
      sections: Its parts.
      summary: A sentence or two below the heading.
      footer: Small print, e.g. versions and the date.

    Returns:
      The path.

    Raises:
      UserError: A figure file is missing or neither PNG nor SVG.
    """
    path = pathlib.Path(path)
    page = render(title, sections, summary=summary, footer=footer)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, page)
    return path


def render(
    title: str, sections: Sequence[Section], *, summary: str = "", footer: str = ""
) -> str:
    """Return the page that `write_report` writes; same arguments and errors."""
    names = [f"section-{i}" for i in range(1, len(sections) + 1)]
    entries = "".join(
        f'<li><a href="#{name}">{html.escape(section.title)}</a></li>'
        for name, section in zip(names, sections, strict=True)
        if section.title
    )
    contents = f'<nav aria-label="Contents"><ol>{entries}</ol></nav>'
    body = "\n".join(
        _section(name, section) for name, section in zip(names, sections, strict=True)
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
{_paragraphs(summary)}
{contents if len(sections) > 2 else ""}
</header>
<main>
{body}
</main>
{f"<footer>{_paragraphs(footer)}</footer>" if footer else ""}
</body>
</html>
"""
    # ASCII reads the same in whatever encoding the file is written and opened.
    return page.encode("ascii", "xmlcharrefreplace").decode()


def _section(name, section):
    begin = ["<section>"]
    if section.title:
        begin = [
            f'<section id="{name}" aria-labelledby="{name}-title">',
            f'<h2 id="{name}-title">{html.escape(section.title)}</h2>',
        ]
    parts = [*begin, _paragraphs(section.text)]
    if section.figure is not None:
        parts.append(_figure(section))
    if section.table:
        parts.append(_table(section))
    if section.code:
        parts.append(
            f'<pre tabindex="0"><code>{html.escape(section.code)}</code></pre>'
        )
    return "\n".join([*filter(None, parts), "</section>"])


def _paragraphs(text):
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n".join(f"<p>{_inline(p)}</p>" for p in paragraphs if p)


def _inline(text):
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _figure(section):
    kind, content, width = _image(section.figure)
    data = base64.b64encode(content).decode()
    # Description without the backticks
    description = html.escape((section.caption or section.title).replace("`", ""))
    # On a narrow screen a figure shrinks to its least readable width, then scrolls.
    style = f"width:100%;max-width:{width * 130:.0f}px;min-width:{width * 66:.0f}px"
    style = style if width else "max-width:100%"
    image = f'<img src="data:{kind};base64,{data}" alt="{description}" style="{style}">'
    caption = f"<figcaption>{_inline(section.caption)}</figcaption>"
    return (
        f'<figure><div class="box">{image}</div>'
        f"{caption if section.caption else ''}</figure>"
    )


def _image(figure):
    """Return media type, bytes and width in inches (0 if not known)."""
    if isinstance(figure, Figure):
        # Pictures of pixels stay pixels; lines and letters stay sharp as SVG.
        suffix = ".png" if any(axis.images for axis in figure.axes) else ".svg"
        return _TYPES[suffix], figures.encode(figure, suffix), figure.get_figwidth()
    path = pathlib.Path(figure)
    if path.suffix.lower() not in _TYPES:
        raise UserError(f"{path}: a report takes figures as .png or .svg files")
    try:
        return _TYPES[path.suffix.lower()], path.read_bytes(), 0
    except OSError as error:
        raise UserError(f"{path}: cannot read the figure ({error.strerror})") from None


def _table(section):
    columns = list(dict.fromkeys(name for row in section.table for name in row))
    numeric = {
        name: all(_is_number(row.get(name)) for row in section.table if name in row)
        for name in columns
    }

    def cell(tag, name, value, scope=""):
        css = ' class="number"' if numeric[name] else ""
        return f"<{tag}{css}{scope}>{html.escape(value)}</{tag}>"

    head = "".join(cell("th", name, name, ' scope="col"') for name in columns)
    rows = []
    for row in section.table:
        texts = [(name, _format(row.get(name, ""))) for name in columns]
        first = cell("th", *texts[0], ' scope="row"')
        rows.append(f"<tr>{first}{''.join(cell('td', *t) for t in texts[1:])}</tr>")
    label = html.escape((section.table_caption or section.title).replace("`", ""))
    caption = f"<caption>{_inline(section.table_caption)}</caption>"
    return (
        f'<div class="box" role="region" tabindex="0" aria-label="{label}"><table>'
        f"{caption if section.table_caption else ''}<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _format(value):
    if value is None:
        return ""
    if _is_number(value) and not isinstance(value, numbers.Integral):
        value = float(value)
        return f"{value:.3f}" if 1e-3 <= abs(value) < 1e3 else f"{value:.4g}"
    return str(value)
