"""One page of several studies, a section of each task: curves, numbers, pictures."""

import pathlib
from collections.abc import Mapping, Sequence

import ml_collections

from sanorm_jax import figures, measures, report
from sanorm_jax.errors import ConfigError
from sanorm_jax.study import charts, learning_rates, page, runner
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
    """Writes `<workdir>/report.html` of what is done; figures also as PNG and PDF.

    Args:
      paper: has `title` and `studies` by name; each has `question`, besides what a
        study has.
      jobs: of each study, by its name.
      workdir: folder of the paper; each study's own report lies in a folder below.

    Returns:
      the page.

    Raises:
      ConfigError: no job of any study is done.
    """
    sections, progress, seconds, footer = [], [], 0.0, ""
    for name, study in paper.studies.items():
        compared = learning_rates.chosen(jobs[name])
        done = [job for job in compared if jobs_lib.is_finished(job, study)]
        # Where rates are not chosen yet, as many are compared as there are variants.
        count = len(study.normalizations) * len(study.seeds) * len(study.train_settings)
        wall = runner.wall_time_s(workdir / name)
        seconds += wall
        progress.append(
            {"study": name, "runs done": f"{len(done)} of {count}"}
            | {"steps of a run": study.base.num_train_steps}
            | {"minutes so far": round(wall / 60, 1)}
        )
        if done:
            sections += _study(name, study, done, workdir)
            versions = page.versions(done[0], study)
            footer = ", ".join(f"{k} {v}" for k, v in versions.items())
        else:
            sections.append(report.Section(study.title, text="No run is done yet."))
    if not footer:
        raise ConfigError(f"--workdir={workdir}: no run is done; start it first")
    sections.append(
        report.Section(
            "Runs",
            table=progress,
            table_caption=f"{seconds / 60:.1f} minutes over all starts. A study's full "
            "report is `report/report.html` in the folder of its name.",
        )
    )
    return report.write_report(
        workdir / FILE,
        paper.title,
        sections,
        summary="What more slots, and more objects, do to Slot Attention under each "
        "normalization of its updates.",
        footer=f"{footer}. {page.machine()}.",
    )


def _study(name, study, done, workdir) -> list[report.Section]:
    """Returns the sections of a study: numbers, curves, pictures."""
    sections = []
    data = [Data(dataset, done[0], study) for dataset in study.evaluation.datasets]
    rows = results_lib.collect(study, done, data)

    def add(title, tag, figure, caption, text=""):
        for suffix in (".png", ".pdf"):
            figures.save(figure, workdir / FIGURES / f"{name}_{tag}{suffix}")
        sections.append(
            report.Section(title, text=text, figure=figure, caption=caption)
        )

    for setting in dict.fromkeys(job.train_setting for job in done):
        mine = [job for job in done if job.train_setting == setting]
        for one in data:
            part = select(rows, train_setting=setting, dataset=one.name)
            several = len(study.train_settings) * len(data) > 1
            where = setting.replace("_", " ") if several else ""
            sections.append(
                report.Section(charts.titled(study.title, where), text=study.question)
            )
            place, kinds = next(iter(measures.groups(study.measures).items()))
            for title, (low, high) in charts.ranges(part, one, part[0]).items():
                add(
                    "",
                    f"{setting}_{one.name}_{low}_{high}",
                    charts.by_slots(part, one, part[0], kinds, low, high),
                    f"{title}, {place}. Lines join the means over seeds, bands reach "
                    "from the least to the largest.",
                )
            seed = min(job.seed for job in mine)
            for k in (
                study.evaluation.sample_slots if study.evaluation.num_samples else ()
            ):
                add(
                    "",
                    f"{setting}_{one.name}_samples_{k}",
                    charts.samples([j for j in mine if j.seed == seed], one, study, k),
                    f"Held-out images with {k} slots, seed {seed}.",
                )
            sections += _tables(study, one, part)
        curve = charts.training(mine, study.measures[0])
        if curve:
            add("", f"{setting}_training", curve, "On held-out images while training.")
    return sections


def _tables(study, data, rows) -> list[report.Section]:
    least, most = data.settings.min_objects, rows[0]["train_max_objects"]
    most = int(data.num_objects.max()) if most == "all" else most
    part = select(rows, min_objects=least, max_objects=most)
    sections = []
    for kinds in measures.groups(study.measures).values():
        for measure in kinds.values():
            sections.append(
                report.Section(
                    "",
                    table=page.slots_table(study, part, measure),
                    table_caption=f"{measures.label(measure)} on "
                    f"{part[0]['num_examples']} images with "
                    f"{charts.range_label(least, most)}, trained with "
                    f"{part[0]['train_slots']} slots; seeds: "
                    f"{', '.join(str(s) for s in sorted({r['seed'] for r in part}))}.",
                )
            )
    return sections
