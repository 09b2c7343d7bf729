"""The published models as a table in Markdown."""

import io

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
    table = Table(box=box.MARKDOWN)
    for column in ("model", "config", *kinds, "runs", "size", "license"):
        table.add_column(column)
    for name, card in cards.items():
        size = (published.FOLDER / name / published.WEIGHTS).stat().st_size
        table.add_row(
            f"`{name}`",
            card["config"],
            *(_cell(card["measures"].get(kind)) for kind in kinds),
            str(card["num_runs"]),
            f"{size / 1e6:.2f} MB",
            card["license"],
        )
    return markdown(table)


def _cell(measure) -> str:
    if measure is None:
        return ""
    if measure["std"] is None:
        return f"{measure['value']:.3f}"
    return f"{measure['value']:.3f} ({measure['mean']:.3f} ± {measure['std']:.3f})"


def markdown(table: Table) -> str:
    """Return the lines of a table, which are as long as they need to be."""
    console = Console(file=io.StringIO(), width=1_000)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.strip() for line in lines if line.strip()) + "\n"
