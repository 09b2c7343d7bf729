"""Report of several studies: curves, tables and images of each task."""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections

from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import measures
from sanorm_jax.report import html_page
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.study import charts, page, runner
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import results as results_lib
from sanorm_jax.study.jobs import Job
from sanorm_jax.study.results import Data, select

FILE = "report.html"
FIGURES = "figures"


def write(
    paper: ml_collections.ConfigDict,
    jobs: Mapping[str, Sequence[Job]],
    workdir: pathlib.Path,
) -> pathlib.Path:
    """Write `<workdir>/report.html` for the finished runs, and figures as PNG and PDF.

    The studies and their jobs are by name. Each study has a `question`, and a folder of
    its name in `workdir`.

    Returns:
      The path of the page.

    Raises:
      UserError: No job of any study is finished.
    """
    workdir_lib.check_writable(workdir / FIGURES)
    sections, progress, seconds, footer = [], [], 0.0, ""
    for name, study in paper.studies.items():
        compared = page.compare(jobs[name], study)
        done = [job for job in compared if jobs_lib.is_reportable(job, study)]
        # Of a grid of learning rates, one run of each variant is compared.
        count = len(study.variants) * len(study.seeds) * len(study.train_settings)
        wall = runner.wall_time_s(workdir / name)
        seconds += wall
        progress.append(
            {"study": name, "runs done": f"{len(done)} of {count}"}
            | {"steps of a run": study.base.num_train_steps}
            | {"minutes so far": round(wall / 60, 1)}
        )
        if done:
            sections += _study(name, study, done, workdir)
            footer = page.footer(done[0], study)
        else:
            sections.append(html_page.Section(study.title, text="No run is done yet."))
    if not footer:
        raise UserError(f"--workdir={workdir}: no run is done; run it without --report")
    sections.append(
        html_page.Section(
            "Runs",
            table=progress,
            table_caption=f"{seconds / 60:.1f} minutes over all starts. A study's full "
            "report is `report/report.html` in the folder of its name.",
        )
    )
    return html_page.write_report(
        workdir / FILE,
        paper.title,
        sections,
        summary="Slot Attention with more slots and more objects than in training, "
        "under different normalizations of its updates.",
        footer=footer,
    )


def _study(name, study, done, workdir) -> list[html_page.Section]:
    shown = page.Page(workdir / FIGURES)
    data = [Data(dataset, done[0], study) for dataset in study.evaluation.datasets]
    rows = results_lib.collect(study, done, data)
    several = len(study.train_settings) * len(data) > 1
    for setting in dict.fromkeys(job.train_setting for job in done):
        mine = [job for job in done if job.train_setting == setting]
        where = setting.replace("_", " ") if several else ""
        for one in data:
            part = select(rows, train_setting=setting, dataset=one.name)
            tag = f"{name}_{setting}_{one.name}"
            title = charts.titled(study.title, where)
            shown.sections.append(html_page.Section(title, text=study.question))
            group, kinds = next(iter(measures.groups(study.measures).items()))
            for objects, (low, high) in charts.ranges(part, one).items():
                shown.figure(
                    "",
                    f"{tag}_{low}_{high}",
                    charts.by_slots(part, one, kinds, low, high),
                    f"{objects}, {group}. {page.SPREAD}",
                )
            page.add_samples(shown, study, mine, one, f"{tag}_samples_{{}}", title)
            _add_tables(shown, study, one, part)
        curve = charts.training(mine, study.measures[0])
        if curve:
            caption = "On held-out images while training."
            shown.figure("", f"{name}_{setting}_training", curve, caption)
    return shown.sections


def _add_tables(shown, study, data, rows):
    low, high = data.min_objects, rows[0]["train_max_objects"]
    high = data.max_objects if high == "all" else high
    part = select(rows, min_objects=low, max_objects=high)
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in part}))
    for kinds in measures.groups(study.measures).values():
        for measure in kinds.values():
            shown.table(
                "",
                page.slots_table(study, part, data, measure),
                f"{measures.label(measure)} on {part[0]['num_examples']} images with "
                f"{charts.range_label(low, high)}, trained with "
                f"{part[0]['train_slots']} slots; seeds: {seeds}.",
            )
