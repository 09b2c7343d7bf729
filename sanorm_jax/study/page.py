"""The report of a study: one page, and its figures and numbers as files."""

import json
import math
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging
from matplotlib.figure import Figure

from sanorm_jax import evaluate, figures, report
from sanorm_jax import workdir as workdir_lib
from sanorm_jax.errors import ConfigError
from sanorm_jax.study import charts, learning_rates, runner
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import results as results_lib
from sanorm_jax.study.jobs import Job
from sanorm_jax.study.results import Data, Row, select

DIRECTORY = "report"
_OCCUPANCY = (
    "How the attention of the last iteration spreads over the slots: with `a[k, n]` "
    "the share of token n in slot k (summing to 1 over k) and N tokens, the mass of "
    "slot k is `m[k] = 1/N sum_n a[k, n]`; the entropy of the masses is "
    "`-sum_k m[k] log m[k]`, `log K` if all K slots have the same; a slot is empty if "
    "it has no token's largest share."
)


class _Page:
    """Collects sections; each figure is also written as a file."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.sections: list[report.Section] = []

    def figure(self, title: str, name: str, figure: Figure, caption: str, text=""):
        """Adds a figure under a title."""
        for suffix in (".png", ".pdf"):
            figures.save(figure, self.directory / f"{name}{suffix}")
        self.sections.append(
            report.Section(title, text=text, figure=figure, caption=caption)
        )

    def table(self, title: str, rows: Sequence[Row], caption: str, text: str = ""):
        """Adds a table under a title."""
        self.sections.append(
            report.Section(title, text=text, table=rows, table_caption=caption)
        )


def write(
    study: ml_collections.ConfigDict, jobs: Sequence[Job], workdir: pathlib.Path
) -> pathlib.Path:
    """Writes `<workdir>/report/report.html`, PNG, PDF, CSV and JSON of what is done.

    Args:
      study: the study's config.
      jobs: all its jobs; those not done are named in the report.
      workdir: folder of the study.

    Returns:
      the page.

    Raises:
      ConfigError: no job is done, or the data is not what was evaluated.
    """
    compared = learning_rates.chosen(jobs)
    done = [job for job in compared if jobs_lib.is_finished(job, study)]
    if not done:
        raise ConfigError(
            f"--workdir={workdir}: no job of the study is done; run it without --report"
        )
    data = [Data(name, done[0], study) for name in study.evaluation.datasets]
    rows = results_lib.collect(study, done, data)
    for measure in study.measures:
        if measure not in rows[0]:
            raise ConfigError(
                f"config.measures: there is no {measure}; there are "
                f"{', '.join(n for n, v in rows[0].items() if isinstance(v, float))}"
            )
    directory = workdir / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    page = _Page(directory)
    for setting in dict.fromkeys(job.train_setting for job in done):
        mine = [job for job in done if job.train_setting == setting]
        for one in data:
            part = select(rows, train_setting=setting, dataset=one.name)
            several = len(study.train_settings) * len(data) > 1
            where = f"{setting} on {one.name}" if several else ""
            _add_results(page, study, mine, one, part, where)
    for setting in dict.fromkeys(job.train_setting for job in done):
        mine = [job for job in done if job.train_setting == setting]
        curve = charts.training(mine, study.measures[0])
        if curve:
            page.figure(
                _titled("While training", setting, len(study.train_settings) > 1),
                f"training_{setting}",
                curve,
                "Under the settings of training, on its validation images; bands reach "
                "from the least to the largest seed.",
            )
    _add_rates(page, study, jobs)
    _add_runs(page, study, jobs, workdir)
    settings = workdir_lib.config_to_dict(study)
    page.sections.append(
        report.Section("Settings", code=json.dumps(settings, indent=1))
    )

    summary = results_lib.summarize(rows, study.measures)
    _write_rows(directory, "results", rows)
    _write_rows(directory, "summary", summary)
    record = {"settings": settings, "versions": versions(done[0], study)}
    record |= {"machine": _machine(), "wall_time_s": runner.wall_time_s(workdir)}
    record["jobs"] = {
        job.name: {"finished": job in done} | jobs_lib.times(job, study) for job in jobs
    }
    workdir_lib.write_atomically(
        directory / "study.json", json.dumps(record, indent=2) + "\n"
    )
    path = report.write_report(
        directory / "report.html",
        study.title,
        page.sections,
        summary=_summary(study, compared, done, rows),
        footer=f"{', '.join(f'{k} {v}' for k, v in versions(done[0], study).items())}. "
        f"{_machine()}.",
    )
    logging.info("report: %s", path)
    return path


def _titled(title: str, where: str, several: bool = True) -> str:
    return f"{title}: {where}" if where and several else title


def _summary(study, jobs, done, rows) -> str:
    resolution = rows[0]["resolution"]
    missing = [job.name for job in jobs if job not in done]
    text = (
        f"{len(study.normalizations)} normalizations, {len(study.seeds)} seeds, "
        f"{done[0].config.num_train_steps} steps each; segmentations are compared at "
        f"{resolution} x {resolution} pixels."
    )
    return text + (f" Not done: {', '.join(missing)}." if missing else "")


def _cell(values: Sequence[float]) -> str:
    mean, spread = results_lib.mean_and_spread(values)
    return f"{mean:.3f}" if math.isnan(spread) else f"{mean:.3f} ± {spread:.3f}"


def _gains(rows: Sequence[Row], measure: str) -> list[Row]:
    """Returns what more slots do to a measure, paired by seed."""
    trained = rows[0]["train_slots"]
    slots = sorted({row["num_slots"] for row in rows})
    # What was trained with, or the nearest number evaluated
    near = min(slots, key=lambda k: abs(k - trained))
    table = []
    for name in dict.fromkeys(row["normalization"] for row in rows):
        mine = select(rows, normalization=name)
        at = {
            k: {r["seed"]: r[measure] for r in select(mine, num_slots=k)}
            for k in (near, slots[-1])
        }
        change = [at[slots[-1]][seed] - at[near][seed] for seed in at[near]]
        table.append(
            {
                "normalization": name,
                f"{near} slots": _cell(list(at[near].values())),
                f"{slots[-1]} slots": _cell(list(at[slots[-1]].values())),
                "change": _cell(change),
            }
        )
    return table


def _add_results(page, study, jobs, data: Data, rows, where):
    tag = f"{jobs[0].train_setting}_{data.name}"
    first = study.measures[0]
    trained = rows[0]["train_slots"]
    least, most = data.settings.min_objects, int(data.num_objects.max())
    whole = select(rows, min_objects=least, max_objects=most)
    size, count = rows[0]["resolution"], whole[0]["num_examples"]
    images = (
        f"{count} images of {data.settings.split} with "
        f"{charts.range_label(least, most)}, {size} x {size} pixels, "
        f"{study.evaluation.num_iterations} iterations"
    )
    spread = (
        "Lines join the means over seeds, bands reach from the least to the largest."
    )
    page.table(
        _titled("What more slots do", where),
        _gains(whole, first),
        f"{charts.label(first)}, mean and standard deviation over seeds; the change is "
        f"taken seed by seed. {images}.",
    )
    for measure in study.measures:
        page.figure(
            _titled(f"{charts.label(measure)} by number of slots", where),
            f"{measure}_{tag}",
            charts.by_slots(rows, data, rows[0], measure, study.evaluation.num_slots),
            f"{charts.label(measure)} at {size} x {size} pixels. {spread} The grid of "
            "blocks sees no image; the oracle is the true labels at the tokens' "
            "resolution.",
        )
    page.table(
        _titled("Table", where),
        _table(study, whole),
        f"Mean and standard deviation over {len(study.seeds)} seeds, trained with "
        f"{trained} slots. {images}.",
    )
    page.figure(
        _titled("Slots and objects", where),
        f"grid_{tag}",
        charts.grid(rows, data, first),
        f"{charts.label(first)} at {size} x {size} pixels, mean over seeds, on images "
        "of at most so many objects.",
    )
    _add_samples(page, study, jobs, data, tag, where)
    _add_occupancy(page, study, jobs, data, rows, tag, where)
    page.table(
        _titled("By number of objects", where),
        _by_objects(rows, first),
        f"{charts.label(first)} with {_nearest(rows)} slots at {size} x {size} pixels.",
    )


def _nearest(rows: Sequence[Row]) -> int:
    slots = {row["num_slots"] for row in rows}
    return min(slots, key=lambda k: (abs(k - rows[0]["train_slots"]), k))


def _table(study, rows: Sequence[Row]) -> list[Row]:
    table = []
    for name in dict.fromkeys(row["normalization"] for row in rows):
        line: Row = {"normalization": name}
        for measure in study.measures:
            for k in study.table_slots:
                cell = select(rows, normalization=name, num_slots=k)
                if cell:
                    line[f"{charts.label(measure)}, {k} slots"] = _cell(
                        [row[measure] for row in cell]
                    )
        table.append(line)
    return table


def _by_objects(rows: Sequence[Row], measure: str) -> list[Row]:
    part = [
        row
        for row in select(rows, num_slots=_nearest(rows))
        if row["min_objects"] == row["max_objects"]
    ]
    table: dict[int, Row] = {}
    for row in part:
        n = row["max_objects"]
        line = table.setdefault(n, {"objects": n, "images": row["num_examples"]})
        line.setdefault(row["normalization"], []).append(row[measure])
    return [
        {k: _cell(v) if isinstance(v, list) else v for k, v in table[n].items()}
        for n in sorted(table)
    ]


def _add_samples(page, study, jobs, data, tag, where):
    seed = min(job.seed for job in jobs)
    shown = [job for job in jobs if job.seed == seed]
    for k in study.evaluation.sample_slots if study.evaluation.num_samples else ():
        page.figure(
            _titled(f"The same images with {k} slots", where),
            f"samples_slots_{k}_{tag}",
            charts.samples(shown, data, study, k),
            f"Held-out images under each normalization, seed {seed}, {k} slots: true "
            "objects and predicted segments. A segment has the colour of the object it "
            "is matched with; other colours are segments left over.",
        )


def _add_occupancy(page, study, jobs, data, rows, tag, where):
    if "slot_entropy_attention" not in rows[0]:
        return
    least, most = data.settings.min_objects, int(data.num_objects.max())
    page.figure(
        _titled("Entropy of the slots' masses", where),
        f"slot_entropy_{tag}",
        charts.entropy(rows, data, rows[0]),
        "The dotted line is the entropy of equal masses.",
        text=_OCCUPANCY,
    )
    page.figure(
        _titled("Empty slots", where),
        f"empty_slots_{tag}",
        charts.empty(rows, data, rows[0]),
        "Share of slots that no token belongs to most.",
    )
    slots = sorted({_nearest(rows), max(study.evaluation.num_slots)})
    page.figure(
        _titled("Mass of the slots", where),
        f"slot_mass_{tag}",
        charts.masses(jobs, data, slots, data.within(least, most)),
        "Slots of an image in the order of their mass, mean over images.",
    )
    table = [
        {"normalization": name, "slots": k}
        | {
            title: _cell([row[f"{measure}_attention"] for row in cell])
            for title, measure in (
                ("entropy of masses", "slot_entropy"),
                ("softness per token", "token_entropy"),
                ("empty slots", "empty_slots"),
            )
        }
        for name in dict.fromkeys(row["normalization"] for row in rows)
        for k in slots
        if (
            cell := select(
                rows,
                **{"normalization": name, "num_slots": k},
                **{"min_objects": least, "max_objects": most},
            )
        )
    ]
    page.table(
        _titled("Occupancy", where),
        table,
        "Softness per token is the entropy of a token's shares in the slots; entropies "
        "in nats.",
    )


def _add_rates(page, study, jobs):
    """Shows the grid of learning rates, and what the choice was made by."""
    if not study.get("learning_rates"):
        return
    taken = {job.name for job in learning_rates.chosen(jobs)}
    table: dict[tuple[str, str], Row] = {}
    for job in learning_rates.trial_jobs(jobs):
        line = table.setdefault(
            (job.train_setting, job.normalization),
            {"normalization": job.normalization, "setting": job.train_setting},
        )
        line[f"loss at {job.learning_rate:g}"] = learning_rates.training_loss(job)
        if job.name in taken:
            line["taken"] = f"{job.learning_rate:g}"
    page.table(
        "Learning rates",
        list(table.values()),
        f"Mean training loss over the last quarter of the steps, seed {jobs[0].seed}.",
        text="Every normalization was tried at the same rates; the one with the least "
        "training loss, at the slots of training, was taken for all seeds.",
    )


def _add_runs(page, study, jobs, workdir):
    table, total = [], 0.0
    for job in jobs:
        seconds = jobs_lib.times(job, study)
        total += sum(seconds.values())
        table.append(
            {"run": job.name}
            | {"state": "done" if jobs_lib.is_finished(job, study) else "not done"}
            | {"training, s": round(seconds["train_s"])}
            | {"evaluation, s": round(seconds["evaluate_s"])}
        )
    wall = runner.wall_time_s(workdir)
    text = f"All runs took {total / 60:.1f} minutes of training and evaluation"
    if wall:
        text += f", the study {wall / 60:.1f} minutes over all its starts"
    page.table("Runs", table, "Seconds over all starts of a run.", text=f"{text}.")


def versions(job: Job, study: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the versions that a job was evaluated with, and its device."""
    name = next(iter(study.evaluation.datasets))
    path = job.table_path(name, study.evaluation.num_slots[0])
    return jobs_lib.read_arrays(path)[1]["versions"]


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def _write_rows(directory: pathlib.Path, name: str, rows: Sequence[Row]):
    """Writes rows as JSON and CSV; what is not a number is null and empty."""
    clean = [
        {
            k: None if isinstance(v, float) and not np.isfinite(v) else v
            for k, v in row.items()
        }
        for row in rows
    ]
    evaluate.write_results(directory, clean, name)
