"""Compare the code with vectors of the original implementation.

    python -m tests.parity --vectors=tests/vectors [--every_quantity]

Checks every file in the folder and prints the errors. Exit codes:

    0   all quantities are within tolerance or at a kink (see `tests.parity.rounding`)
    1   a quantity exceeds its tolerance or was not compared, or a file is unknown
    2   the folder does not exist
"""

import dataclasses
import pathlib
import sys

import jax
from absl import flags, logging
from rich.console import Console
from rich.table import Table

from sanorm_jax.core import commands
from sanorm_jax.core.errors import UserError
from tests.parity import models, others, rounding
from tests.parity.vectors import Row, Vectors

_VECTORS = commands.define_path("vectors", None, "Folder of .npz files.")
_EVERY = flags.DEFINE_bool(
    "every_quantity", False, "One row per array, instead of the worst of each group."
)

# Checks by the beginning of the file name.
CHECKS = {
    "slot_attention_": models.check_slot_attention,
    "dinosaur_": models.check_dinosaur,
    "autoencoder_": models.check_autoencoder,
    "set_predictor": models.check_set_predictor,
    "metrics": others.check_metrics,
    "optimisation": others.check_optimization,
}


def check_file(path: pathlib.Path) -> tuple[list[Row], list[str]]:
    """Return the comparisons of a file and notes on them, without raising."""
    check = next((CHECKS[p] for p in CHECKS if path.name.startswith(p)), None)
    if check is None or path.suffix != ".npz":
        return [Row(path.name, "(unknown file)", float("inf"), 0.0)], []
    try:
        vectors = Vectors(path)
        check(vectors)
    except Exception as error:
        # An error in one file must not hide the others; it becomes a failing row.
        logging.exception("%s", path)
        line = str(error).split("\n")[0]
        reason = f"(failed: {type(error).__name__}: {line})"
        return [Row(path.name, reason, float("inf"), 0.0)], []
    vectors.finish()
    return vectors.rows, vectors.notes


def check_folder(folder: pathlib.Path) -> tuple[list[Row], list[str]]:
    """Return the comparisons of all files except the README, and the notes."""
    rows, notes = [], []
    for path in sorted(folder.iterdir()):
        if path.name != "README.md":
            file_rows, file_notes = check_file(path)
            rows += file_rows
            notes += file_notes
    return rows, notes


def worst_of_groups(rows: list[Row]) -> list[Row]:
    """Return all failures and kinks, and the worst of the other rows of each group."""
    groups: dict[tuple, list[Row]] = {}
    for i, row in enumerate(rows):
        passed = row.passed and not row.at_kink
        group = row.quantity.split("/")[0] if passed else i
        groups.setdefault((row.file, group, row.tolerance), []).append(row)
    shown = []
    for members in groups.values():
        worst = max(members, key=lambda row: row.error)
        more = f" (worst of {len(members)})" if len(members) > 1 else ""
        shown.append(dataclasses.replace(worst, quantity=worst.quantity + more))
    return shown


def _table(rows: list[Row]) -> Table:
    table = Table("file", "quantity", title="Parity with the original implementation")
    for title in ("largest relative error", "tolerance", "change by rounding"):
        table.add_column(title, justify="right")
    for row in rows:
        style = "yellow" if row.at_kink else None if row.passed else "bold red"
        kink = "kink: " if row.at_kink else ""
        change = "" if row.sensitivity is None else f"{row.sensitivity:.1e}"
        table.add_row(
            row.file,
            row.quantity,
            f"{kink}{row.error:.1e}",
            f"{row.tolerance:.0e}",
            change,
            style=style,
        )
    return table


def main() -> int:
    folder = _VECTORS.value
    if not folder.is_dir() or not any(folder.iterdir()):
        raise UserError(
            f"--vectors={folder}: not a folder with files; use tests/vectors"
        )
    # By default, GPUs multiply float32 matrices with fewer bits.
    jax.config.update("jax_default_matmul_precision", "highest")
    rows, notes = check_folder(folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_table(rows if _EVERY.value else worst_of_groups(rows)))
    for note in notes:
        console.print(f"Note on {note}.")
    failures = sum(not row.passed for row in rows)
    kinks = sum(row.at_kink for row in rows)
    console.print(
        f"Change by rounding: change of the result if weights and inputs change by up "
        f"to {rounding.LARGEST_CHANGE:.1e} of their values."
    )
    if kinks:
        console.print(
            "Kink: the error exceeds the tolerance, but a run with weights and inputs "
            "changed in this way agrees with the vectors at all kinks of the file."
        )
    console.print(
        f"{len(rows)} comparisons, {failures} past tolerance, {kinks} at a kink."
    )
    return 1 if failures else 0


if __name__ == "__main__":
    # Not required in its definition, because `benchmarks.gpu` imports this module.
    flags.mark_flag_as_required("vectors")
    commands.main(main)
