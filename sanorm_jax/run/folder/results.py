"""Tables of evaluation results, as JSON and CSV."""

import csv
import io
import json
import math
import pathlib
from typing import Any

import filelock
import ml_collections
import numpy as np
from absl import logging

from sanorm_jax.core import files
from sanorm_jax.run.folder import workdir as workdir_lib

# Value of the column `method` in rows of the model. Other rows belong to baselines.
MODEL = "model"


def merge(
    directory: pathlib.Path,
    rows: list[dict[str, Any]],
    config: ml_collections.ConfigDict,
    fingerprints: dict[str, str],
) -> list[dict[str, Any]]:
    """Merge rows into the results of a folder, and return all of them.

    A row replaces an earlier row with the same setting. Earlier rows of another config
    or other data are dropped.
    """
    made_with = {
        "config": workdir_lib.fixed_fields(config),
        "fingerprints": fingerprints,
    }
    results, record = directory / "results.json", directory / "made_with.json"
    # Two evaluations may finish at the same time.
    with filelock.FileLock(directory / ".merge"):
        earlier = json.loads(results.read_text()) if results.exists() else []
        if earlier and not (
            record.exists() and json.loads(record.read_text()) == made_with
        ):
            logging.warning(
                "%s: results of another config or other data are replaced", results
            )
            earlier = []
        merged = {_setting(row): row for row in (*earlier, *rows)}
        files.write(record, files.to_json(made_with))
        return write_results(directory, [merged[key] for key in sorted(merged)])


def _setting(row: dict[str, Any]) -> tuple:
    """Return the setting of a row as a sort key: the model and "all" objects first."""
    limit, count = row["max_objects"], row["num_objects"]
    return (
        row["split"],
        row["step"],
        row["method"] != MODEL,
        row["method"],
        row["num_slots"] or 0,
        row["num_iterations"] or 0,
        math.inf if limit == "all" else limit,
        row["resolution"],
        -1 if count == "all" else count,
    )


def write_results(
    directory: pathlib.Path, rows: list[dict[str, Any]], name: str = "results"
) -> list[dict[str, Any]]:
    """Write rows as `<name>.json` and `<name>.csv`; return them with NaN as None."""
    rows = [
        {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in row.items()
        }
        for row in rows
    ]
    files.write(directory / f"{name}.json", files.to_json(rows))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(
        table, list(dict.fromkeys(key for row in rows for key in row))
    )
    writer.writeheader()
    writer.writerows(rows)
    files.write(directory / f"{name}.csv", table.getvalue())
    return rows
