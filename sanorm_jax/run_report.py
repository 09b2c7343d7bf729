"""The report of one run: what it learned, as one page without a network."""

import json
import pathlib
import platform
from typing import Any

import jax
from absl import logging

from sanorm_jax import evaluate, figures, references, report, status, tasks, writers
from sanorm_jax import workdir as workdir_lib
from sanorm_jax.errors import ConfigError

FILE = "report.html"


def _training_figure(workdir: pathlib.Path):
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    curves: dict[str, dict[float, list[float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name.split("/")[-1].startswith("fg_ari") and value is not None:
                curves.setdefault(name.split("/")[-1], {})[line["step"]] = [value]
    if not curves:
        return None
    return figures.sweep_plot(curves, xlabel="training step", ylabel="FG-ARI")


def _rows(rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Returns the table of the report: one row a value of `by`."""
    hidden = {"split", "step", "max_objects", "num_iterations", "num_slots"} - {by}
    hidden |= {"num_objects"} - {by}
    return [
        {by: row[by]} | {k: v for k, v in row.items() if k not in hidden and k != by}
        for row in rows
    ]


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `<workdir>/report.html` from the run's newest evaluation.

    Raises:
      ConfigError: the run was not evaluated by `--mode=evaluate`.
    """
    config = workdir_lib.load_config(workdir)
    folders = sorted(
        (workdir / evaluate.DIRECTORY).glob("*/results.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not folders:
        raise ConfigError(
            f"--workdir={workdir}: not evaluated; run --mode=evaluate first"
        )
    folder = folders[-1].parent
    rows = json.loads(folders[-1].read_text())
    task = tasks.create(config, tasks.open_dataset(config))
    evaluator = evaluate.Evaluator(task, evaluate.Devices("jit"))
    split = rows[0]["split"]
    baseline = {}
    if "segmentation" in task.dataset.fields:
        count = config.num_slots
        means = references.table(
            task, split, evaluator.select(split), [count]
        ).compute()
        baseline["grid of blocks"] = means[references.block_name("fg_ari", count)]
        if (oracle := references.oracle_name("fg_ari")) in means:
            baseline["oracle"] = means[oracle]
    size = config.evaluation_resolution

    whole = [row for row in rows if row["num_objects"] == "all"]
    same = [r for r in whole if r["num_slots"] == config.num_slots] or whole
    state = status.read(workdir)
    sections = []
    pictures = sorted(folder.glob(f"segmentation_slots_{same[0]['num_slots']}_*.png"))
    if pictures:
        sections.append(
            report.Section(
                "Scenes taken apart",
                text="Held-out scenes, their true objects, and what the model found: "
                "one colour a slot; below, the mask of each slot.",
                figure=pictures[0],
                caption=f"Segmentation with {same[0]['num_slots']} slots.",
            )
        )
    names = [n for n in whole[0] if n.startswith("fg_ari")]
    if len({row["num_slots"] for row in whole}) > 1 and names:
        lines = {
            name: {row["num_slots"]: [row[name]] for row in whole} for name in names
        }
        figure = figures.sweep_plot(
            lines,
            xlabel="number of slots",
            ylabel="FG-ARI",
            references=baseline,
            mark=("trained with", config.num_slots),
        )
        sections.append(
            report.Section(
                "More slots than trained with",
                figure=figure,
                caption=f"FG-ARI on {split} against the number of slots.",
            )
        )
    sections.append(
        report.Section(
            "Results",
            text=f"At {size} x {size} pixels. "
            + "; ".join(f"{k}: FG-ARI {v:.3f}" for k, v in baseline.items()),
            table=_rows(whole, "num_slots"),
            table_caption=f"Measures on the whole split {split}.",
        )
    )
    parts = [
        r
        for r in rows
        if r["num_objects"] != "all" and r["num_slots"] == same[0]["num_slots"]
    ]
    if parts:
        sections.append(
            report.Section(
                "By number of objects",
                table=_rows(parts, "num_objects"),
                table_caption=f"With {same[0]['num_slots']} slots.",
            )
        )
    curve = _training_figure(workdir)
    if curve:
        sections.append(
            report.Section("Training", figure=curve, caption="FG-ARI while training.")
        )
    sections.append(
        report.Section("Settings", code=(workdir / workdir_lib.CONFIG_FILE).read_text())
    )
    path = report.write_report(
        workdir / FILE,
        f"{config.task} on {config.dataset}: {config.update_normalization}",
        sections,
        summary=f"Step {state['step']}, trained for {state['wall_time']} with "
        f"{config.num_slots} slots.",
        footer=f"jax {jax.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {jax.default_backend()}.",
    )
    logging.info("report: %s", path)
    return path
