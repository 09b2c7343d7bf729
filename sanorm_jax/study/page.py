"""The report of a study: one page, and its figures and numbers as files."""

import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import logging
from matplotlib.figure import Figure

from sanorm_jax import baselines
from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError
from sanorm_jax.drawing import figures
from sanorm_jax.metrics import measures
from sanorm_jax.report import html_page
from sanorm_jax.run.folder import results
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.study import appendix, charts, explorer, learning_rates, runner
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import results as results_lib
from sanorm_jax.study.jobs import Job
from sanorm_jax.study.results import Data, Row, select

DIRECTORY = "report"
SPREAD = "Lines join the means over seeds, bands show the range over seeds."


def compare(jobs: Sequence[Job], study: ml_collections.ConfigDict) -> list[Job]:
    """Return the jobs that the report compares, in the order of the variants.

    These are the jobs with the chosen learning rates, and their evaluations with
    merging.
    """
    compared = [
        result
        for job in learning_rates.chosen(jobs)
        for result in jobs_lib.results_of(job, study)
    ]
    order = [*study.variants, *study.merged]
    return sorted(compared, key=lambda job: (job.seed, order.index(job.variant)))


class Page:
    """Sections of a page; each figure is also written to `directory` as PNG and PDF."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.sections: list[html_page.Section] = []

    def figure(self, title: str, name: str, figure: Figure, caption: str, text=""):
        """Add a figure under a title."""
        for suffix in (".png", ".pdf"):
            figures.save(figure, self.directory / f"{name}{suffix}")
        self.sections.append(
            html_page.Section(title, text=text, figure=figure, caption=caption)
        )

    def table(self, title: str, rows: Sequence[Row], caption: str, text: str = ""):
        """Add a table under a title."""
        self.sections.append(
            html_page.Section(title, text=text, table=rows, table_caption=caption)
        )


def write(
    study: ml_collections.ConfigDict, jobs: Sequence[Job], workdir: pathlib.Path
) -> pathlib.Path:
    """Write `<workdir>/report/report.html`, figures, CSV and JSON of finished jobs.

    Only files of the study are read, neither models nor data. The report names the jobs
    that are not finished.

    Returns:
      The path of the page.

    Raises:
      UserError: No job is finished, a measure does not exist, or tables were made from
        different data.
    """
    workdir_lib.check_writable(workdir / DIRECTORY)
    compared = compare(jobs, study)
    done = [job for job in compared if jobs_lib.is_reportable(job, study)]
    if not done:
        raise UserError(
            f"--workdir={workdir}: no job of the study is done; run it without --report"
        )
    data = [Data(name, done[0], study) for name in study.evaluation.datasets]
    several = len(study.train_settings) * len(data) > 1
    rows = results_lib.collect(study, done, data)
    for measure in study.measures:
        if measure not in rows[0]:
            raise UserError(
                f"config.measures: there is no {measure}; there are "
                f"{', '.join(n for n, v in rows[0].items() if isinstance(v, float))}"
            )
    directory = workdir / DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    page = Page(directory)
    for one in data:
        _add_explorer(page, study, done, one, rows, workdir)
    by_setting: dict[str, list[Job]] = {}
    for job in done:
        by_setting.setdefault(job.train_setting, []).append(job)
    for setting, mine in by_setting.items():
        for one in data:
            part = select(rows, train_setting=setting, dataset=one.name)
            where = f"{setting} on {one.name}" if several else ""
            _add_results(page, study, mine, one, part, where)
    for setting, mine in by_setting.items():
        curve = charts.training(mine, study.measures[0])
        if curve:
            where = setting if len(study.train_settings) > 1 else ""
            page.figure(
                charts.titled("While training", where),
                f"training_{setting}",
                curve,
                f"Under the settings of training, on its validation images. {SPREAD}",
            )
    appendix.add_rates(page, study, jobs)
    appendix.add_runs(page, study, jobs, workdir)
    settings = workdir_lib.config_to_dict(study)
    page.sections.append(
        html_page.Section("Settings", code=json.dumps(settings, indent=1))
    )

    summary = results_lib.summarize(rows, study.measures)
    references = results_lib.baseline_rows(rows, data)
    results.write_results(directory, [*rows, *references], "results")
    results.write_results(directory, summary, "summary")
    record = {
        "settings": settings,
        "versions": _versions(done[0], study),
        "machine": _machine(),
        "wall_time_s": runner.wall_time_s(workdir),
        "jobs": {
            job.name: {"finished": job in done} | jobs_lib.times(job, study)
            for job in jobs
        },
    }
    files.write(directory / "study.json", files.to_json(record))
    path = html_page.write_report(
        directory / "report.html",
        study.title,
        page.sections,
        summary=_summary(study, compared, done, rows),
        footer=footer(done[0], study),
    )
    logging.info("report: %s", path)
    return path


def _summary(study, jobs, done, rows) -> str:
    resolution = rows[0]["resolution"]
    missing = [job.name for job in jobs if job not in done]
    text = (
        f"{len(study.variants) + len(study.merged)} variants, "
        f"{len(study.seeds)} {'seed' if len(study.seeds) == 1 else 'seeds'}, "
        f"{done[0].config.num_train_steps} steps each. Segmentations are compared at "
        f"{resolution} x {resolution} pixels."
    )
    return text + (f" Not done: {', '.join(missing)}." if missing else "")


def _add_explorer(page, study, jobs, data: Data, rows, workdir):
    """Add the interactive part for one dataset, or a line about what it needs."""
    if not explorer.can_show(study, rows):
        return
    several = len(study.evaluation.datasets) > 1
    title = charts.titled("Explore", data.name if several else "")
    shown = explorer.with_label_maps(study, jobs)
    if not shown:
        text = (
            "This part needs label maps of the sample images. Compute them with "
            f"`python -m sanorm_jax.study --workdir={workdir}`."
        )
        page.sections.append(html_page.Section(title, text=text))
        return
    page.sections.append(
        html_page.Section(
            title,
            text="A segment has the color of the object that it is matched with; "
            "other colors are unmatched segments. White outlines are true objects. "
            f"The models are those of seed {shown[0].seed}.",
            explorer=explorer.create(study, shown, data, rows),
        )
    )


def _gains(rows: Sequence[Row], measure: str) -> list[Row]:
    """Return how a measure changes with more slots, paired by seed.

    A variant with one number of slots has no line.
    """
    near = results_lib.nearest(rows)
    maximum = max(row["num_slots"] for row in rows)
    table = []
    for variant, mine in results_lib.by_variant(rows).items():
        before, after = (
            {row["seed"]: row[measure] for row in select(mine, num_slots=k)}
            for k in (near, maximum)
        )
        if not before or not after:
            continue
        change = [after[seed] - before[seed] for seed in before]
        table.append(
            {
                "variant": variant,
                f"{near} slots": results_lib.cell(list(before.values())),
                f"{maximum} slots": results_lib.cell(list(after.values())),
                "change": results_lib.cell(change),
            }
        )
    return table


def _add_results(page, study, jobs, data: Data, rows, where):
    tag = f"{jobs[0].train_setting}_{data.name}"
    first = study.measures[0]
    trained = rows[0]["train_slots"]
    all_images = data.on_all_images(rows)
    size, count = rows[0]["resolution"], all_images[0]["num_examples"]
    images = (
        f"{count} images of {data.settings.split} with "
        f"{charts.range_label(data.min_objects, data.max_objects)}, {size} x {size} "
        f"pixels, {study.evaluation.num_iterations} iterations"
    )
    page.table(
        charts.titled("More slots than in training", where),
        _gains(all_images, first),
        f"{measures.label(first)}, mean and standard deviation over seeds; changes are "
        f"paired by seed. {images}.",
    )
    caption = f" {baselines.DESCRIPTION}" if data.methods else ""
    for title, (low, high) in charts.ranges(rows, data).items():
        for group, kinds in measures.groups(study.measures).items():
            part = select(rows, min_objects=low, max_objects=high)
            page.figure(
                charts.titled(f"{title}: {group}", where),
                f"{group.replace(' ', '_')}_{low}_{high}_{tag}",
                charts.by_slots(rows, data, kinds, low, high),
                f"{part[0]['num_examples']} images, {size} x {size} pixels. {SPREAD}"
                f"{caption if group != measures.PROPERTIES else ''}",
            )
            for measure in kinds.values():
                page.table(
                    "",
                    slots_table(study, part, data, measure),
                    f"{measures.label(measure)}, mean and standard deviation over "
                    f"{len(study.seeds)} seeds, trained with {trained} slots.",
                )
    page.figure(
        charts.titled("Slots and objects", where),
        f"grid_{tag}",
        charts.grid(rows, data, first),
        f"{measures.label(first)} at {size} x {size} pixels, mean over seeds, on "
        "images with at most this number of objects.",
    )
    add_samples(page, study, jobs, data, f"samples_slots_{{}}_{tag}", where)
    appendix.add_counts(page, data, rows, tag, where)
    appendix.add_occupancy(page, study, jobs, data, rows, tag, where)
    page.table(
        charts.titled("By number of objects", where),
        _by_objects(rows, first),
        f"{measures.label(first)} with {results_lib.nearest(rows)} slots at {size} x "
        f"{size} pixels.",
    )


def slots_table(study, rows: Sequence[Row], data: Data, measure: str) -> list[Row]:
    """Return the measure at `study.table_slots`, by variant and baseline.

    `rows` are of one training setting and one range of numbers of objects.
    """
    table = []
    for variant, mine in results_lib.by_variant(rows).items():
        line: Row = {"variant": variant}
        for k in study.table_slots:
            if cell := select(mine, num_slots=k):
                line[f"{k} slots"] = results_lib.cell([row[measure] for row in cell])
        table.append(line)
    references = data.baseline_rows(rows[0]["min_objects"], rows[0]["max_objects"])
    for label, scores in baselines.scores(references, measure).items():
        line = {"variant": label}
        for k in study.table_slots:
            value = scores.get(k) if isinstance(scores, dict) else scores
            if value is not None:
                line[f"{k} slots"] = results_lib.cell([value])
        table.append(line)
    return table


def _by_objects(rows: Sequence[Row], measure: str) -> list[Row]:
    rows = select(rows, num_slots=results_lib.nearest(rows))
    table = []
    for n in sorted({r["max_objects"] for r in rows}):
        part = select(rows, min_objects=n, max_objects=n)
        if not part:
            continue
        line = {"objects": n, "images": part[0]["num_examples"]}
        for variant, mine in results_lib.by_variant(part).items():
            line[variant] = results_lib.cell([row[measure] for row in mine])
        table.append(line)
    return table


def add_samples(page, study, jobs, data, name, where):
    """Show the same images under each variant, for the first seed.

    The file of a figure is `name`, with braces for the number of slots.
    """
    seed = min(job.seed for job in jobs)
    for k in study.evaluation.sample_slots if study.evaluation.num_samples else ():
        shown = [job for job in jobs if job.seed == seed and job.allows(k)]
        if not shown:
            continue
        figure, caption = charts.samples(shown, data, k)
        page.figure(
            charts.titled(f"The same images with {k} slots", where),
            name.format(k),
            figure,
            f"Held-out images under each variant, seed {seed}, {k} slots: {caption}.",
        )


def _versions(job: Job, study: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the versions and the device that a job was evaluated with."""
    name = next(iter(study.evaluation.datasets))
    path = job.table_path(name, jobs_lib.evaluated_slots(job, study)[0])
    return jobs_lib.read_arrays(path)[1]["versions"]


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def footer(job: Job, study: ml_collections.ConfigDict) -> str:
    """Return the versions that a job was evaluated with, and this machine."""
    versions = (f"{k} {v}" for k, v in _versions(job, study).items())
    return f"{', '.join(versions)}. {_machine()}."
