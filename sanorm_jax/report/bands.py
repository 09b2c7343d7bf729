"""Bands: the course of recorded runs, to compare a run of the same config with.

Each file in the folder `bands` holds the bands that `record` found in a folder of runs.
A band has the settings of its runs and the lowest and highest value of each measure by
step. `compare` widens these limits, because a few runs do not show the full spread.
"""

import dataclasses
import itertools
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from absl import logging

from sanorm_jax.configs import common
from sanorm_jax.core import files, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import measures
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.folder import writers

FOLDER = pathlib.Path(__file__).with_name("bands")
_HELP = "docs/slot_count.md#why-do-my-slots-not-bind"
_WITHIN = "within the band"
_NOT_YET = "not compared yet"
# Measures of the training steps: their names for people, and the smallest factor by
# which a band is widened on each side.
TRAINING = {"loss": "loss", "grad_norm": "gradient norm"}
_FACTORS = {"loss": 1.1, "grad_norm": 2.0}
# Smallest difference by which the band of a score is widened on each side.
_DIFFERENCE = 0.05
EVALUATION = "default"
_MIN_RUNS = 3
_MIN_VALUES = 5  # logged values in a window
_MAX_WINDOWS = 40
# Nothing is said about a nearest band that differs in more fields.
_MAX_DIFFERENCES = 3

Curve = dict[int, float]
Limits = dict[int, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of training steps, over which logged values are averaged.

    Attributes:
      steps: Number of steps in a window.
      values: Number of logged values that a window needs.
    """

    steps: int
    values: int


@dataclasses.dataclass(frozen=True)
class Band:
    """The recorded course of several runs.

    Attributes:
      name: Name of the band's file.
      settings: Fields of the config and of the data that all runs share.
      runs: Number of runs.
      limits: Limits by measure and step, widened.
    """

    name: str
    settings: Mapping[str, Any]
    runs: int
    windows: Windows
    limits: Mapping[str, Limits]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A run beside the band of its config.

    Attributes:
      text: Result of the comparison in one line.
      curves: Course of the run by measure.
      limits: Limits of the band by measure; empty without a band.
    """

    text: str
    curves: Mapping[str, Curve]
    limits: Mapping[str, Limits]


def compare(workdir: pathlib.Path) -> Comparison:
    """Return the course of a run beside the band of its config."""
    settings = _settings(workdir)
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    recorded = _read()
    same = [band for band in recorded if band.settings == settings]
    if not same:
        curves = _course(lines, _windows(workdir))
        return Comparison(_no_band(settings, recorded), curves, {})
    band = max(same, key=lambda band: band.runs)
    curves = _course(lines, band.windows)
    parts: dict[str, list[str]] = {}
    labels = _labels(band.limits)
    for measure, limits in band.limits.items():
        verdict = _verdict(curves.get(measure, {}), limits)
        parts.setdefault(verdict, []).append(labels[measure])
    text = "; ".join(f"{', '.join(names)} {part}" for part, names in parts.items())
    text = f"compared with {band.runs} runs of {band.name}: {text}"
    if not all(part.startswith((_WITHIN, _NOT_YET)) for part in parts):
        text += f"; see {_HELP}"
    return Comparison(text, curves, band.limits)


def record(folder: pathlib.Path, output: pathlib.Path):
    """Write a band for each config with several finished runs below a folder.

    Raises:
      UserError: There are too few runs.
    """
    groups: dict[str, list[pathlib.Path]] = {}
    for path in sorted(folder.rglob(workdir_lib.CONFIG_FILE)):
        if _is_finished(path.parent):
            key = json.dumps(_settings(path.parent), sort_keys=True)
            groups.setdefault(key, []).append(path.parent)
    groups = {key: runs for key, runs in groups.items() if len(runs) >= _MIN_RUNS}
    if not groups:
        raise UserError(
            f"--workdir={folder}: has no config with {_MIN_RUNS} finished runs; pass a "
            "folder of runs that differ in their seeds"
        )
    settings = [json.loads(key) for key in groups]
    first = settings[0]
    shared = {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in settings)
    }
    found = []
    for one, runs in zip(settings, groups.values(), strict=True):
        windows = _windows(runs[0])
        own = {name: value for name, value in one.items() if name not in shared}
        found.append(
            {
                "settings": own,
                "runs": len(runs),
                "windows": dataclasses.asdict(windows),
                "measures": _ranges(runs, windows),
            }
        )
        names = ", ".join(run.name for run in runs)
        logging.info("band of %d runs: %s", len(runs), names)
    files.write(output, files.to_json({"settings": shared, "bands": found}))


def _is_finished(workdir: pathlib.Path) -> bool:
    lines = workdir_lib.read_lines(workdir / writers.METRICS_FILE)
    last = max((line["step"] for line in lines if "loss" in line), default=-1)
    return last >= 0 and last >= workdir_lib.load_config(workdir).num_train_steps


def _windows(workdir: pathlib.Path) -> Windows:
    config = workdir_lib.load_config(workdir)
    logged = config.num_train_steps // config.log_every_steps
    values = max(_MIN_VALUES, -(-logged // _MAX_WINDOWS))
    return Windows(values * config.log_every_steps, values)


def _fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return the fields of a config that determine the course of its runs."""
    fields = workdir_lib.fixed_fields(config)
    del fields["seed"]
    evaluations = fields["evaluations"]
    fields["evaluations"] = {n: evaluations[n] for n in evaluations if n == EVALUATION}
    return files.flatten(fields)


def _settings(workdir: pathlib.Path) -> dict[str, Any]:
    """Return the fields of the config and the data that determine a run's course."""
    fields = _fields(workdir_lib.load_config(workdir))
    if (workdir / run_data.FILE).exists():
        record = run_data.read(workdir)
        features = record["features"] or {}
        projection = features.get("projection") or {}
        fields |= {
            "data.image_size": record["image_size"],
            "data.input_size": features.get("input_size"),
            "data.components": projection.get("components"),
            "data.whitening": projection.get("whitening"),
        }
    return fields


def _course(lines: Iterable[Mapping[str, Any]], windows: Windows) -> dict[str, Curve]:
    """Return the values of a run by measure and step.

    Single batches vary, so the loss and the gradient norm are medians over windows.
    Their step is the end of the window. The scores are the first group of the default
    evaluation. Values that are not finite are NaN.
    """
    training = [line for line in lines if "loss" in line]
    last = max((line["step"] for line in training), default=0)
    curves: dict[str, Curve] = {}
    for measure in TRAINING:
        logged: dict[int, list[float]] = {}
        for line in training:
            end = -(-line["step"] // windows.steps) * windows.steps
            logged.setdefault(end, []).append(writers.number(line.get(measure)))
        curves[measure] = {
            end: math.nan if any(map(math.isnan, values)) else statistics.median(values)
            for end, values in logged.items()
            if end <= last and len(values) >= windows.values
        }
    for line in lines:
        values = writers.evaluation(line, EVALUATION)
        first: Mapping[str, str] = next(iter(measures.groups(values).values()), {})
        for measure in first.values():
            curves.setdefault(measure, {})[line["step"]] = values[measure]
    return curves


def _labels(names: Iterable[str]) -> dict[str, str]:
    """Return the names of measures for people: FG-ARI for `fg_ari_masks_refined`."""
    groups = measures.groups(names)
    kinds = {m: kind for group in groups.values() for kind, m in group.items()}
    return TRAINING | kinds


def _ranges(runs: Iterable[pathlib.Path], windows: Windows) -> dict[str, Any]:
    """Return the lowest and highest value by measure and step that all runs have."""
    courses = [
        _course(workdir_lib.read_lines(run / writers.METRICS_FILE), windows)
        for run in runs
    ]
    ranges: dict[str, Any] = {}
    for measure, curve in courses[0].items():
        for step in sorted(curve):
            values = [course.get(measure, {}).get(step, math.nan) for course in courses]
            if all(map(math.isfinite, values)):
                limits = [float(f"{limit:.4g}") for limit in (min(values), max(values))]
                ranges.setdefault(measure, {})[step] = limits
    return ranges


def _widen(measure: str, low: float, high: float) -> tuple[float, float]:
    """Return limits that lie beyond the recorded ones by at least their range.

    The range of the loss and of the gradient norm is a factor; that of a score is a
    difference.
    """
    if measure in _FACTORS:
        factor = max(high / low, _FACTORS[measure])
        return low / factor, high * factor
    difference = max(high - low, _DIFFERENCE)
    return low - difference, high + difference


def _read() -> list[Band]:
    found = []
    added = _fields(common.get_config())  # fields that older bands lack
    for path in sorted(FOLDER.glob("*.json")):
        content = json.loads(path.read_text())
        for band in content["bands"]:
            limits = {
                measure: {int(s): _widen(measure, *limits) for s, limits in by.items()}
                for measure, by in band["measures"].items()
            }
            settings = added | content["settings"] | band["settings"]
            windows = Windows(**band["windows"])
            found.append(Band(path.stem, settings, band["runs"], windows, limits))
    return found


def _no_band(settings: Mapping[str, Any], recorded: Iterable[Band]) -> str:
    text = "no band is recorded for this config"
    near = [(files.differences(band.settings, settings), band) for band in recorded]
    parts, band = min(near, key=lambda item: len(item[0]), default=([], None))
    if band is None or len(parts) > _MAX_DIFFERENCES:
        return text
    return f"{text}; the nearest is of {band.name} ({'; '.join(parts)})"


def _side(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "not finite"
    if low <= value <= high:
        return _WITHIN
    return "below the band" if value < low else "above the band"


def _verdict(curve: Curve, limits: Limits) -> str:
    """Return where the curve is at its last step in common with the band."""
    steps = sorted(curve.keys() & limits.keys(), reverse=True)
    if not steps:
        return _NOT_YET
    sides = [_side(curve[step], *limits[step]) for step in steps]
    same = list(itertools.takewhile(lambda side: side == sides[0], sides))
    if sides[0] == _WITHIN and len(same) == len(sides):
        return _WITHIN
    return f"{sides[0]} since step {steps[len(same) - 1]:,}"
