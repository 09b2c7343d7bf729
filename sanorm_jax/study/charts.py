"""Figures of a study's report."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from sanorm_jax import baselines
from sanorm_jax.core.errors import UserError
from sanorm_jax.drawing import figures, predictions
from sanorm_jax.metrics import measures
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder import writers
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.jobs import Job
from sanorm_jax.study.results import Data, Row, by_variant, select

_SLOTS = "number of slots"


def titled(title: str, where: str) -> str:
    """Return a title, followed by `where` unless empty."""
    return f"{title}: {where}" if where else title


def range_label(low: int, high: int) -> str:
    """Return the text for a range of numbers of objects."""
    if low == high:
        return f"{low} objects"
    return f"{low} to {high} objects" if low else f"at most {high} objects"


def lines(rows: Sequence[Row], measure: str) -> dict[str, dict[int, list[float]]]:
    """Return the values of all seeds by variant and number of slots."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        points = found.setdefault(measures.variant(row["variant"]), {})
        points.setdefault(row["num_slots"], []).append(row[measure])
    return found


def by_slots(
    rows: Sequence[Row], data: Data, kinds: Mapping[str, str], low: int, high: int
) -> Figure:
    """Draw measures against the number of slots, a panel for each of `kinds`.

    `rows` are of one training setting. Images with `low` to `high` objects count.
    """
    part = select(rows, min_objects=low, max_objects=high)
    references = data.baseline_rows(low, high)
    return figures.sweep_plots(
        {kind: lines(part, measure) for kind, measure in kinds.items()},
        xlabel=_SLOTS,
        ylabel="score",
        references={
            kind: baselines.drawn(references, measure)
            for kind, measure in kinds.items()
        },
        mark=_trained_with(rows),
    )


def _trained_with(rows: Sequence[Row]) -> tuple[str, int]:
    return "trained with", rows[0]["train_slots"]


def ranges(rows: Sequence[Row], data: Data) -> dict[str, tuple[int, int]]:
    """Return the ranges of objects to draw, by title: as in training, and above."""
    low, high = data.min_objects, data.max_objects
    trained = rows[0]["train_max_objects"]
    if trained != "all":
        parts = [(low, trained), (trained + 1, high)]
        if all(select(rows, min_objects=a, max_objects=b) for a, b in parts):
            suffixes = ("as trained", "more than trained")
            return {
                f"{range_label(*part)}, {suffix}": part
                for part, suffix in zip(parts, suffixes, strict=True)
            }
    return {range_label(low, high): (low, high)}


def grid(rows: Sequence[Row], data: Data, measure: str) -> Figure:
    """Draw heat maps of a measure, slots x maximum objects, per variant."""
    slots = sorted({row["num_slots"] for row in rows})
    low = data.min_objects
    present = {(row["min_objects"], row["max_objects"]) for row in rows}
    limits = [n for n in data.settings.max_objects if (low, n) in present]

    def mean(part: Sequence[Row], **where) -> float:
        values = [row[measure] for row in select(part, min_objects=low, **where)]
        return float(np.mean(values)) if values else np.nan

    panels = {
        variant: np.array(
            [[mean(mine, num_slots=k, max_objects=n) for n in limits] for k in slots]
        )
        for variant, mine in by_variant(rows).items()
    }
    return figures.heat_maps(
        panels,
        rows=slots,
        columns=limits,
        ylabel=_SLOTS,
        xlabel="maximum number of objects",
        label=measures.label(measure),
    )


def entropy(rows: Sequence[Row]) -> Figure:
    """Draw the entropy of the slots' masses against the number of slots."""
    even = {k: float(np.log(k)) for k in sorted({row["num_slots"] for row in rows})}
    return figures.sweep_plots(
        {"": lines(rows, "slot_entropy_attention")},
        xlabel=_SLOTS,
        ylabel="entropy of the slots' masses (nats)",
        references={"": {"equal masses": even}},
        mark=_trained_with(rows),
    )


def empty(rows: Sequence[Row]) -> Figure:
    """Draw the share of slots without a token against the number of slots."""
    return figures.sweep_plots(
        {"": lines(rows, "empty_slots_attention")},
        xlabel=_SLOTS,
        ylabel="share of empty slots",
        mark=_trained_with(rows),
    )


def masses(jobs: Sequence[Job], data: Data, slots: Sequence[int]) -> Figure:
    """Draw the mean mass of an image's slots, from the largest to the smallest.

    `jobs` are of one training setting. Each number of slots has a panel.
    """
    part = data.within(data.min_objects, data.max_objects)
    panels: dict[str, dict] = {}
    for k in slots:
        panel = panels.setdefault(f"{k} slots", {})
        for job in jobs:
            if not job.allows(k):
                continue
            columns, _ = jobs_lib.read_arrays(job.table_path(data.name, k))
            # [K]
            mass = columns["slot_mass_attention"][part].mean(0)
            line = panel.setdefault(measures.variant(job.variant), {})
            for rank, value in enumerate(mass.tolist(), start=1):
                line.setdefault(rank, []).append(value)
    return figures.sweep_plots(
        panels, xlabel="slots of an image by mass", ylabel="share of the attention"
    )


def read_samples(
    job: Job, data: Data, num_slots: int, indices: np.ndarray
) -> dict[str, np.ndarray]:
    """Return a job's predictions `[n, ...]` for the sample images `[n]`, by name.

    Raises:
      UserError: The predictions are for other images.
    """
    path = job.samples_path(data.name, num_slots)
    predicted, _ = jobs_lib.read_arrays(path)
    if not np.array_equal(predicted.pop("index"), indices):
        raise UserError(
            f"{path}: made from other images than {job.images_path(data.name)}; "
            "remove both and run the study again"
        )
    return predicted


def samples(jobs: Sequence[Job], data: Data, num_slots: int) -> tuple[Figure, str]:
    """Draw the same images under each variant, and return a caption.

    `jobs` are of one seed, one for each variant.
    """
    examples, _ = jobs_lib.read_arrays(jobs[0].images_path(data.name))
    shown = examples.pop("index")
    predicted = {
        measures.variant(job.variant): read_samples(job, data, num_slots, shown)
        for job in jobs
    }
    names = set.intersection(*map(set, predicted.values()))
    drawing = predictions.choose(names, examples)
    return drawing.draw(examples, predicted), drawing.caption


def training(jobs: Sequence[Job], measure: str) -> Figure | None:
    """Draw a measure over the training steps; None if no run logged it."""
    found: dict[str, dict[int, list[float]]] = {}
    for job in jobs:
        for line in workdir_lib.read_lines(job.workdir / writers.METRICS_FILE):
            for name, value in line.items():
                if name.split("/")[-1] == measure and value is not None:
                    name = measures.variant(job.variant)
                    points = found.setdefault(name, {})
                    points.setdefault(line["step"], []).append(value)
    if not found:
        return None
    return figures.sweep_plots(
        {"": found}, xlabel="training step", ylabel=measures.label(measure)
    )
