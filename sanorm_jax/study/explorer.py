"""The interactive part of a study's page: any scene, variant and slots.

Label maps are small PNG files whose pixels are indices of a palette. The page colors
them.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image

from sanorm_jax.drawing import painting
from sanorm_jax.metrics import measures
from sanorm_jax.study import charts
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study.jobs import Job
from sanorm_jax.study.results import Data, Row, select

# Maximum sides in pixels: they bound the size of the page.
_IMAGE_SIDE = 192
_LABELS_SIDE = 128
# Index of the pixels without a true label.
_IGNORED = 255


def create(
    study: ml_collections.ConfigDict,
    jobs: Sequence[Job],
    data: Data,
    rows: Sequence[Row],
) -> dict[str, Any]:
    """Return the content of the interactive part for one dataset.

    Returns:
      `images`, PNG files in base64; and `content` for the page's script. For each
      training setting it has `models`, each with `labels` and `values` of the scenes,
      `[slots][scenes]`, and the `curve` over all images and seeds, `[slots]`.
    """
    examples, _ = jobs_lib.read_arrays(jobs[0].images_path(data.name))
    rows = select(data.on_all_images(rows), dataset=data.name)
    kinds = _kinds(rows[0])
    slots = sorted(study.evaluation.num_slots)
    settings: dict[str, dict[str, Any]] = {}
    for job in jobs:
        mine = select(rows, train_setting=job.train_setting, variant=job.variant)
        model = {
            "name": measures.variant(job.variant),
            "curve": [
                np.mean([row[kinds["FG-ARI"]] for row in select(mine, num_slots=k)])
                for k in slots
            ],
        } | _scene_results(job, data, slots, examples, kinds.values())
        start = {"trained_with": job.config.num_slots, "models": []}
        settings.setdefault(job.train_setting, start)["models"].append(model)
    num_colors = 1 + int(examples["segmentation"].max()) + max(slots)
    content = {
        "scenes": _scenes(examples),
        "slots": slots,
        "kinds": list(kinds),
        "num_images": rows[0]["num_examples"],
        "colors": [to_hex(color) for color in painting.palette(num_colors)],
        "variants": list(dict.fromkeys(measures.variant(j.variant) for j in jobs)),
        "settings": settings,
    }
    images = [
        _png(Image.fromarray(_at_most(image, _IMAGE_SIDE)))
        for image in examples["image"]
    ]
    return {"images": images, "content": content}


def with_label_maps(study: ml_collections.ConfigDict, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of the first seed that allow all numbers of slots.

    The list is empty if one of them lacks label maps.
    """
    first = [
        job
        for job in jobs
        if job.seed == min(study.seeds)
        and all(map(job.allows, study.evaluation.num_slots))
    ]
    return first if all(jobs_lib.has_label_maps(job, study) for job in first) else []


def can_show(study: ml_collections.ConfigDict, rows: Sequence[Row]) -> bool:
    """Return whether the study has sample images whose segmentation is measured."""
    return bool(study.evaluation.num_samples and _kinds(rows[0]))


def _kinds(row: Row) -> dict[str, str]:
    """Return the measures of the label maps, by their titles."""
    for kinds in measures.groups(row).values():
        if {"FG-ARI", "ARI"} <= kinds.keys():
            return {kind: kinds[kind] for kind in ("FG-ARI", "ARI")}
    return {}


def _scenes(examples) -> list[dict[str, Any]]:
    """Return number and label map of the true objects of each sample image."""
    return [
        {
            "objects": int(np.sum(np.unique(labels) > 0)),
            "labels": _labels(np.where(labels < 0, _IGNORED, labels)),
        }
        for labels in examples["segmentation"].astype(int)
    ]


def _scene_results(job, data, slots, examples, names) -> dict[str, Any]:
    """Return label maps, measures and used slots of the sample images."""
    found: dict[str, Any] = {"labels": [], "values": []}
    for num_slots in slots:
        table, _ = jobs_lib.read_arrays(job.table_path(data.name, num_slots))
        samples = charts.read_samples(job, data, num_slots, examples["index"])
        positions = np.searchsorted(table["index"], examples["index"])
        labels, values = [], []
        for i, true, predicted in zip(
            positions, examples["segmentation"], samples["segmentation"], strict=True
        ):
            index = painting.matched_indices(true.astype(int), predicted, num_slots)
            labels.append(_labels(index[predicted]))
            used = len(np.unique(predicted))
            values.append([*(round(float(table[n][i]), 4) for n in names), used])
        found["labels"].append(labels)
        found["values"].append(values)
    return found


def _at_most(array: np.ndarray, side: int) -> np.ndarray:
    """Return nearest pixels of an array `[h, w, ...]`, reduced to a maximum side."""
    scale = min(1, side / max(array.shape[:2]))
    return painting.enlarge(array, [round(n * scale) for n in array.shape[:2]])


def _labels(index: np.ndarray) -> str:
    """Return a label map as a PNG whose pixels are shades of gray, index by index."""
    index = _at_most(index, _LABELS_SIDE).astype(np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(np.arange(index.max() + 1).repeat(3).astype(np.uint8).tobytes())
    return _png(image)


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
