"""The published models as a table in Markdown."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from sanorm_jax.core import published


def models() -> str:
    """Return a table of the packaged models with their measures."""
    cards = {
        name: published.read_card(published.FOLDER / name) for name in published.names()
    }
    kinds = list(dict.fromkeys(k for card in cards.values() for k in card["measures"]))
    rows = []
    for name, card in cards.items():
        size = (published.FOLDER / name / published.WEIGHTS).stat().st_size
        measures = [_cell(card["measures"].get(kind)) for kind in kinds]
        rows.append(
            [
                f"`{name}`",
                card["config"],
                *measures,
                str(card["num_runs"]),
                f"{size / 1e6:.2f} MB",
                card["license"],
            ]
        )
    columns = ["model", "config", *kinds, "runs", "size", "license"]
    return markdown(columns, rows)


def _cell(measure) -> str:
    if measure is None:
        return ""
    if measure["std"] is None:
        return f"{measure['value']:.3f}"
    return f"{measure['value']:.3f} ({measure['mean']:.3f} ± {measure['std']:.3f})"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as text, with lines of any length."""
    table = Table(*columns, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=1_000)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.strip() for line in lines if line.strip()) + "\n"
