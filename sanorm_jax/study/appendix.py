"""Appendix of a study's report: occupancy of slots, learning rates and runs."""

from collections.abc import Collection, Mapping, Sequence

from sanorm_jax.metrics import measures
from sanorm_jax.study import charts, learning_rates, runner
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.results import Row, by_variant, cell, nearest, select

_OCCUPANCY = (
    "Distribution of the attention of the last iteration over the slots. Let `a[k, n]` "
    "be the share of token n in slot k (which sums to 1 over k), and N the number of "
    "tokens. The mass of slot k is `m[k] = 1/N sum_n a[k, n]`. The entropy of the "
    "masses is `-sum_k m[k] log m[k]`, which is `log K` if all K slots have the same "
    "mass. A slot is empty if no token has its largest share there."
)


def _by_slots(
    rows: Sequence[Row], slots: Collection[int], columns: Mapping[str, str]
) -> list[Row]:
    """Return a table of the measures `columns`, by variant and number of slots."""
    return [
        {"variant": variant, "slots": k}
        | {title: cell([row[m] for row in part]) for title, m in columns.items()}
        for variant, mine in by_variant(rows).items()
        for k in sorted(slots)
        if (part := select(mine, num_slots=k))
    ]


def add_occupancy(page, study, jobs, data, rows, tag, where):
    """Add figures and a table of the occupancy of slots, if it was measured."""
    if "slot_entropy_attention" not in rows[0]:
        return
    rows = data.on_all_images(rows)
    page.figure(
        charts.titled("Entropy of the slots' masses", where),
        f"slot_entropy_{tag}",
        charts.entropy(rows),
        "The dotted line is the entropy of equal masses.",
        text=_OCCUPANCY,
    )
    page.figure(
        charts.titled("Empty slots", where),
        f"empty_slots_{tag}",
        charts.empty(rows),
        "Fraction of slots in which no token has its largest share.",
    )
    slots = {nearest(rows), max(study.evaluation.num_slots)}
    page.figure(
        charts.titled("Mass of the slots", where),
        f"slot_mass_{tag}",
        charts.masses(jobs, data, sorted(slots)),
        "Slots of an image, sorted by mass; mean over images.",
    )
    columns = {
        "entropy of masses": "slot_entropy_attention",
        "softness per token": "token_entropy_attention",
        "empty slots": "empty_slots_attention",
    }
    page.table(
        charts.titled("Occupancy", where),
        _by_slots(rows, slots, columns),
        "Softness per token is the entropy of a token's shares in the slots. Entropies "
        "are in nats.",
    )


def add_counts(page, data, rows, tag, where):
    """Show over- and under-segmentation against the number of slots, where measured."""
    groups = measures.counts(rows[0])
    if not groups or any(measures.counts(row) != groups for row in rows):
        return
    group, kinds = next(iter(groups.items()))
    page.figure(
        charts.titled("Over- and under-segmentation", where),
        f"slot_count_{tag}",
        charts.by_slots(rows, data, kinds, data.min_objects, data.max_objects),
        f"Of the {group}; docs/evaluation.md defines the measures.",
        text=measures.COUNTS_TEXT,
    )
    rows = data.on_all_images(rows)
    page.table(
        "",
        _by_slots(rows, {row["num_slots"] for row in rows}, kinds),
        f"Of the {group}, mean and standard deviation over seeds.",
    )


def add_rates(page, study, jobs):
    """Add the training losses that determined the learning rates."""
    if not study.learning_rates:
        return
    chosen = {job.name for job in learning_rates.chosen(jobs)}
    table: dict[tuple[str, str], Row] = {}
    for job in learning_rates.trial_jobs(jobs):
        start = {
            "variant": measures.variant(job.variant),
            "setting": job.train_setting,
        }
        line = table.setdefault((job.train_setting, job.variant), start)
        line[f"loss at {job.learning_rate:g}"] = learning_rates.training_loss(job)
        if job.name in chosen:
            line["chosen"] = f"{job.learning_rate:g}"
    page.table(
        "Learning rates",
        list(table.values()),
        f"Mean training loss over the last quarter of the steps, seed {jobs[0].seed}.",
        text="Each variant was trained at the same learning rates. All seeds use "
        "the rate with the lowest training loss.",
    )


def add_runs(page, study, jobs, workdir):
    """Add a table of the runs and their times."""
    table, total = [], 0.0
    for job in jobs:
        seconds = jobs_lib.times(job, study)
        total += sum(seconds.values())
        table.append(
            {"run": job.name}
            | {"state": "done" if jobs_lib.is_reportable(job, study) else "not done"}
            | {"training, s": round(seconds["train_s"])}
            | {"evaluation, s": round(seconds["evaluate_s"])}
        )
    wall = runner.wall_time_s(workdir)
    text = f"All runs took {total / 60:.1f} minutes of training and evaluation"
    if wall:
        text += f", the study {wall / 60:.1f} minutes over all its starts"
    page.table("Runs", table, "Seconds over all starts of a run.", text=f"{text}.")
