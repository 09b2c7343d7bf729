"""Tables of the benchmarks' results, in Markdown."""

from rich import box
from rich.console import Console
from rich.table import Table


def make(title: str | None, *columns: str) -> Table:
    """Return an empty table; columns are aligned right, except for the first."""
    table = Table(title=title, box=box.MARKDOWN)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def show(*tables: Table):
    """Print tables, wide enough for all columns."""
    for table in tables:
        Console(width=160, highlight=False).print(table)
