"""The figures of a study's report, from its rows."""

from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np
from matplotlib.figure import Figure

from sanorm_jax import figures, references, writers
from sanorm_jax import workdir as workdir_lib
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.jobs import Job
from sanorm_jax.study.results import Data, Row, select

_SLOTS = "number of slots"


def label(measure: str) -> str:
    """Returns how a measure's name is written: `fg_ari_masks` as FG-ARI masks."""
    words = measure.split("_")
    if words[:2] == ["fg", "ari"]:
        words = ["FG-ARI", *words[2:]]
    known = {"ari": "ARI", "mbo": "mBO", "miou": "mIoU", "ap": "AP", "mse": "MSE"}
    words[0] = known.get(words[0], words[0])
    return words[0] + (f" ({', '.join(words[1:])})" if words[1:] else "")


def range_label(least: int, most: int) -> str:
    """Returns how a range of objects is written."""
    if least == most:
        return f"{least} objects"
    return f"{least} to {most} objects" if least else f"at most {most} objects"


def lines(rows: Sequence[Row], measure: str) -> dict[str, dict[int, list[float]]]:
    """Returns the values of all seeds by normalization and number of slots."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        points = found.setdefault(row["normalization"], {})
        points.setdefault(row["num_slots"], []).append(row[measure])
    return found


def by_slots(
    rows: Sequence[Row], data: Data, train: Row, measure: str, slots: Sequence[int]
) -> Figure:
    """Draws a measure against the number of slots: objects as trained, and more.

    Args:
      rows: of one training setting.
      data: that they were evaluated on.
      train: any row of the setting, for what it was trained with.
      measure: name of the measure.
      slots: numbers of slots of the references.
    """
    least = data.settings.min_objects
    most = int(data.num_objects.max())
    trained = train["train_max_objects"]
    panels, known = {}, {}
    ranges = [(least, most)]
    if trained != "all":
        parts = [(least, trained), (trained + 1, most)]
        if all(select(rows, min_objects=a, max_objects=b) for a, b in parts):
            ranges = parts
    for low, high in ranges:
        part = select(rows, min_objects=low, max_objects=high)
        title = range_label(low, high)
        if len(ranges) > 1:
            title += ", as trained" if high == trained else ", more than trained"
        panels[title] = lines(part, measure)
        known[title] = _references(data, measure, slots, low, high)
    return figures.sweep_plots(
        panels,
        xlabel=_SLOTS,
        ylabel=label(measure),
        references=known,
        mark=("trained with", train["train_slots"]),
    )


def _references(data: Data, measure: str, slots, low, high):
    name = "fg_ari" if measure.startswith("fg_ari") else "ari"
    blocks = {
        k: data.reference(references.block_name(name, k), low, high) for k in slots
    }
    if not measure.startswith(("fg_ari", "ari")) or None in blocks.values():
        return {}
    found = {"grid of blocks": blocks}
    oracle = data.reference(references.oracle_name(name), low, high)
    return found if oracle is None else {"oracle": oracle} | found


def grid(rows: Sequence[Row], data: Data, measure: str) -> Figure:
    """Draws heat maps of a measure: slots x most objects, for each normalization."""
    slots = sorted({row["num_slots"] for row in rows})
    least = data.settings.min_objects
    present = {(row["min_objects"], row["max_objects"]) for row in rows}
    limits = [n for n in data.settings.max_objects if (least, n) in present]
    panels = {}
    for name in dict.fromkeys(row["normalization"] for row in rows):
        panels[name] = np.full((len(slots), len(limits)), np.nan)
        for i, k in enumerate(slots):
            for j, limit in enumerate(limits):
                cell = select(
                    rows,
                    **{"normalization": name, "num_slots": k},
                    **{"min_objects": least, "max_objects": limit},
                )
                panels[name][i, j] = np.mean([row[measure] for row in cell])
    return figures.heat_maps(
        panels,
        **{"rows": slots, "columns": limits, "ylabel": _SLOTS},
        xlabel="maximum number of objects",
        label=label(measure),
    )


def entropy(rows: Sequence[Row], data: Data, train: Row) -> Figure:
    """Draws the entropy of the slots' masses against the number of slots."""
    part = _whole(rows, data)
    even = {k: float(np.log(k)) for k in sorted({row["num_slots"] for row in part})}
    return figures.sweep_plot(
        lines(part, "slot_entropy_attention"),
        xlabel=_SLOTS,
        ylabel="entropy of the slots' masses (nats)",
        references={"all slots alike": even},
        mark=("trained with", train["train_slots"]),
    )


def empty(rows: Sequence[Row], data: Data, train: Row) -> Figure:
    """Draws the share of slots that win no token against the number of slots."""
    return figures.sweep_plot(
        lines(_whole(rows, data), "empty_slots_attention"),
        xlabel=_SLOTS,
        ylabel="share of empty slots",
        mark=("trained with", train["train_slots"]),
    )


def masses(
    jobs: Sequence[Job], data: Data, slots: Sequence[int], part: np.ndarray
) -> Figure:
    """Draws the mean mass of an image's slots, from the largest to the smallest.

    Args:
      jobs: that are done, of one training setting.
      data: that they were evaluated on.
      slots: numbers of slots, a panel each.
      part: which of the examples count, bool `[n]`.
    """
    panels: dict[str, dict] = {}
    for k in slots:
        panel = panels.setdefault(f"{k} slots", {})
        for job in jobs:
            columns, _ = jobs_lib.read_arrays(job.table_path(data.name, k))
            # [K]
            mass = columns["slot_mass_attention"][part].mean(0)
            line = panel.setdefault(job.normalization, {})
            for rank, value in enumerate(mass.tolist(), start=1):
                line.setdefault(rank, []).append(value)
    return figures.sweep_plots(
        panels, xlabel="slots of an image by mass", ylabel="share of the attention"
    )


def _whole(rows: Sequence[Row], data: Data) -> list[Row]:
    return select(
        rows,
        min_objects=data.settings.min_objects,
        max_objects=int(data.num_objects.max()),
    )


def samples(
    jobs: Sequence[Job], data: Data, study: ml_collections.ConfigDict, num_slots: int
) -> Figure:
    """Draws the same images as each normalization takes them apart.

    Args:
      jobs: one for each normalization.
      data: that the images are of.
      study: the study's config.
      num_slots: slots that they were evaluated with.
    """
    predicted: Mapping[str, np.ndarray] = {}
    for job in jobs:
        columns, _ = jobs_lib.read_arrays(job.samples_path(data.name, num_slots))
        predicted[job.normalization] = columns["segmentation"]
        indices = columns["index"]
    dataset, split = data.task.dataset, data.settings.split
    true = None
    if "segmentation" in dataset.fields:
        true = dataset.read(split, "segmentation", indices)
    return figures.segmentation_grid(
        dataset.read(split, "image", indices), true, predicted
    )


def training(jobs: Sequence[Job], measure: str) -> Figure | None:
    """Draws a measure over the training steps, if the runs have logged it."""
    found: dict[str, dict[int, list[float]]] = {}
    for job in jobs:
        for line in workdir_lib.read_lines(job.workdir / writers.METRICS_FILE):
            for name, value in line.items():
                if name.split("/")[-1] == measure and value is not None:
                    points = found.setdefault(job.normalization, {})
                    points.setdefault(line["step"], []).append(value)
    if not found:
        return None
    return figures.sweep_plot(found, xlabel="training step", ylabel=label(measure))
