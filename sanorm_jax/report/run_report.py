"""The report of one run, from the files in its folder, without model and data."""

import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from matplotlib.figure import Figure

from sanorm_jax import baselines, evaluate
from sanorm_jax.core import run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.drawing import figures
from sanorm_jax.metrics import measures
from sanorm_jax.report import bands, html_page, status
from sanorm_jax.run.folder import results, writers
from sanorm_jax.run.folder import workdir as workdir_lib

FILE = "report.html"

Row = dict[str, Any]
# Names of tasks on the page.
_TASKS = {
    "dinosaur": "DINOSAUR",
    "object_discovery": "Object discovery",
    "property_prediction": "Property prediction",
}


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Write `<workdir>/report.html` from the run's newest evaluation.

    Raises:
      UserError: The run was not evaluated by `sanorm evaluate`.
    """
    config = workdir_lib.load_config(workdir)
    workdir_lib.check_writable(workdir)
    folder, rows = _newest_evaluation(workdir)
    state = status.read(workdir)
    references = [row for row in rows if row["method"] != results.MODEL]
    rows = [row for row in rows if row["method"] == results.MODEL]
    overall = [row for row in rows if row["num_objects"] == "all"]
    # The setting of training, if it was evaluated.
    same = [r for r in overall if r["num_slots"] == config.num_slots] or overall
    same = [r for r in same if r["num_iterations"] == config.num_iterations] or same
    num_slots = same[0]["num_slots"]

    sections = _picture(folder, num_slots)
    for limit in dict.fromkeys(row["max_objects"] for row in overall):
        part = [row for row in overall if row["max_objects"] == limit]
        theirs = [
            row
            for row in references
            if (row["max_objects"], row["num_objects"]) == (limit, "all")
        ]
        sections += _more_slots(part, limit, theirs, config)
        sections.append(_results(part, limit, config))
        sections += _baselines(theirs)
        sections += _slot_counts(part, limit, config)
    # Each number of objects once, whatever limits were evaluated.
    iterations = same[0]["num_iterations"]
    counts = {
        row["num_objects"]: row
        for row in rows
        if row["num_objects"] != "all"
        and (row["num_slots"], row["num_iterations"]) == (num_slots, iterations)
    }
    if counts:
        sections.append(
            html_page.Section(
                "By number of objects",
                table=[_line(row, "num_objects") for _, row in sorted(counts.items())],
                table_caption=f"With {num_slots} slots.",
            )
        )
    sections += _training(workdir, config)
    sections.append(
        html_page.Section(
            "Settings", code=(workdir / workdir_lib.CONFIG_FILE).read_text()
        )
    )
    name = measures.variant(config.update_normalization)
    path = html_page.write_report(
        workdir / FILE,
        f"{_TASKS.get(config.task, config.task)} on {config.dataset}: {name}",
        sections,
        summary=f"Step {state['step']} of {state['num_train_steps']}, trained for "
        f"{state['wall_time']} with {config.num_slots} slots. {_features(workdir)}",
        footer=f"jax {jax.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {jax.default_backend()}.",
    )
    logging.info("report: %s", path)
    return path


def _newest_evaluation(workdir: pathlib.Path) -> tuple[pathlib.Path, list[Row]]:
    files = sorted(
        (workdir / evaluate.DIRECTORY).glob("*/results.json"),
        key=lambda path: path.stat().st_mtime,
    )
    if not files:
        raise UserError(
            f"--workdir={workdir}: not evaluated; run python -m sanorm_jax evaluate "
            f"--workdir={workdir}"
        )
    return files[-1].parent, json.loads(files[-1].read_text())


def _features(workdir: pathlib.Path) -> str:
    settings = run_data.read(workdir)["features"]
    if not settings:
        return ""
    text = f"Features of {settings['encoder']}"
    projection = settings.get("projection")
    if projection:
        share = 100 * projection["explained_variance"]
        text += (
            f", {projection['components']} principal components with {share:.1f} % of "
            f"the variance, whitening {projection['whitening']:g}"
        )
    return f"{text}."


def _picture(folder: pathlib.Path, num_slots: int) -> list[html_page.Section]:
    pictures = sorted(folder.glob(f"*_slots_{num_slots}_*.png"))
    if not pictures:
        return []
    return [
        html_page.Section(
            "Held-out images",
            text="Images of the evaluated split, their true objects and the "
            "predictions of the model.",
            figure=pictures[0],
            caption=f"With {num_slots} slots: {figures.read_description(pictures[0])}",
        )
    ]


def _where(limit: Any) -> str:
    return "" if limit == "all" else f", at most {limit} objects"


def _plot(
    part: Sequence[Row], groups, config, ylabel: str, references=None
) -> Figure | None:
    """Plot measures against the number of slots; None for a single number."""
    if len({row["num_slots"] for row in part}) < 2 or not groups:
        return None
    panels: dict[str, dict[str, dict[int, list[float]]]] = {}
    several = len({row["num_iterations"] for row in part}) > 1
    for group, kinds in groups.items():
        for kind, measure in kinds.items():
            lines = panels.setdefault(kind, {})
            for row in part:
                name = f"{group}, {row['num_iterations']} iterations"
                line = lines.setdefault(name if several else group, {})
                line[row["num_slots"]] = [row[measure]]
    return figures.sweep_plots(
        panels,
        xlabel="number of slots",
        ylabel=ylabel,
        references=references,
        mark=("trained with", config.num_slots),
    )


def _slot_counts(part, limit, config) -> list[html_page.Section]:
    """Show over- and under-segmentation against the number of slots."""
    groups = measures.counts(part[0])
    if not groups:
        return []
    group, kinds = next(iter(groups.items()))
    return [
        html_page.Section(
            f"Over- and under-segmentation{_where(limit)}",
            text=measures.COUNTS_TEXT,
            figure=_plot(part, groups, config, ylabel=""),
            table=[
                {"slots": row["num_slots"], "iterations": row["num_iterations"]}
                | {kind: row[measure] for kind, measure in kinds.items()}
                for row in part
            ],
            table_caption=f"Of the {group}.",
        )
    ]


def _more_slots(
    part: Sequence[Row], limit: Any, references: Sequence[Row], config
) -> list[html_page.Section]:
    groups = measures.groups(part[0])
    known = {
        kind: baselines.drawn(references, measure)
        for kinds in groups.values()
        for kind, measure in kinds.items()
    }
    figure = _plot(part, groups, config, ylabel="score", references=known)
    if figure is None:
        return []
    title = f"More slots than in training{_where(limit)}"
    caption = f"On {part[0]['num_examples']} images of {part[0]['split']}."
    return [html_page.Section(title, figure=figure, caption=caption)]


def _line(row: Row, by: str) -> Row:
    """Return the columns of a row that the page shows; the CSV file has all."""
    line = {by.removeprefix("num_"): row[by]}
    line |= {"iterations": row["num_iterations"], "images": row["num_examples"]}
    if row.get("num_with_objects", row["num_examples"]) != row["num_examples"]:
        line["with objects"] = row["num_with_objects"]
    for group, kinds in measures.groups(row).items():
        for kind, measure in kinds.items():
            line[kind if group == measures.PROPERTIES else f"{kind} {group}"] = row[
                measure
            ]
    losses = (name for name in ("mse", "huber") if name in row)
    return line | {measures.label(name): row[name] for name in losses}


def _results(part: Sequence[Row], limit: Any, config) -> html_page.Section:
    size = config.evaluation_resolution
    return html_page.Section(
        f"Results{_where(limit)}",
        text=f"At {size} x {size} pixels.",
        table=[_line(row, "num_slots") for row in part],
        table_caption=f"Means over the images of {part[0]['split']}; all measures are "
        "in `results.csv` of the run's folder `evaluations`.",
    )


def _baselines(references: Sequence[Row]) -> list[html_page.Section]:
    table = []
    for row in references:
        slots = row["num_slots"]
        name = baselines.LABELS[row["method"]] + (f", {slots} slots" if slots else "")
        (kinds,) = measures.groups(row).values()
        line = {"baseline": name} | {kind: row[m] for kind, m in kinds.items()}
        table.append(line)
    caption = f"Baselines without learning, on the same images. {baselines.DESCRIPTION}"
    return [html_page.Section("", table=table, table_caption=caption)] if table else []


def _training(workdir: pathlib.Path, config) -> list[html_page.Section]:
    """Show the course of the run, with the band of its config behind it."""
    compared = bands.compare(workdir)
    text = f"{compared.text[0].upper()}{compared.text[1:]}."
    sections = [html_page.Section("Training", text=text)]
    lines = {
        label: {"": {step: [value] for step, value in curve.items()}}
        for measure, label in bands.TRAINING.items()
        if (curve := compared.curves[measure])
    }
    if lines:
        limits = {
            label: compared.limits.get(measure, {})
            for measure, label in bands.TRAINING.items()
        }
        figure = figures.sweep_plots(
            lines, xlabel="training step", ylabel="", bands=limits, share_scale=False
        )
        caption = "Medians over windows of training steps."
        caption += " Gray: the band." if any(limits.values()) else ""
        sections.append(html_page.Section("", figure=figure, caption=caption))
    return sections + _training_scores(workdir, config, compared.limits)


def _training_scores(
    workdir: pathlib.Path, config, limits: Mapping[str, bands.Limits]
) -> list[html_page.Section]:
    named = bands.EVALUATION in config.evaluations
    setting = bands.EVALUATION if named else min(config.evaluations, default="")
    panels: dict[str, dict[str, dict[int, list[float]]]] = {}
    behind: dict[str, bands.Limits] = {}
    for line in workdir_lib.read_lines(workdir / writers.METRICS_FILE):
        values = writers.evaluation(line, setting)
        for group, kinds in measures.groups(values).items():
            for kind, measure in kinds.items():
                points = panels.setdefault(kind, {}).setdefault(group, {})
                points[line["step"]] = [values[measure]]
                behind.setdefault(kind, limits.get(measure, {}))
    if not panels:
        return []
    figure = figures.sweep_plots(
        panels, xlabel="training step", ylabel="score", bands=behind
    )
    caption = "On held-out images while training."
    if any(behind.values()):
        first = next(iter(next(iter(panels.values()))))
        caption += f" Gray: the band of the {first}."
    return [html_page.Section("", figure=figure, caption=caption)]
