"""Evaluation of a published model anew, and comparison with its card."""

import math
import pathlib
import re
import subprocess
import sys
from typing import Any

import ml_collections
from absl import logging

from sanorm_jax import trained
from sanorm_jax.core import published, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.data.manifest import read_manifest
from sanorm_jax.evaluate import Evaluator
from sanorm_jax.published.publish import evaluated_data
from sanorm_jax.published.table import markdown
from sanorm_jax.run.distribution.devices import Devices
from sanorm_jax.run.folder import compilation_cache
from sanorm_jax.run.folder import workdir as workdir_lib

# Maximum difference of a measure between the card and a new evaluation.
TOLERANCE = 0.01


def check(folder: pathlib.Path, data_dir: pathlib.Path) -> tuple[bool, str]:
    """Evaluate a published model on its validation data in `data_dir`.

    If the data is not there and its dataset is synthetic, it is rendered, and features
    are extracted as the model's own.

    Returns:
      Whether all measures of the card are met within `TOLERANCE`, and a table of them.

    Raises:
      UserError: The model is damaged, or the data is missing and cannot be rendered.
    """
    card = published.read_card(folder)
    published.weights(folder)
    config = workdir_lib.load_config(folder).copy_and_resolve_references()
    config.data_dir = str(data_dir)
    compilation_cache.enable(config, published.results_folder(folder))
    dataset = _find(folder, config, card)
    if dataset is None:
        _create(folder, config, card)
        dataset = _find(folder, config, card)
    if dataset is None:
        raise UserError(
            f"--data_dir={data_dir}: does not hold the data that {folder} was "
            "evaluated on; choose another folder"
        )
    run = trained.open_run(folder, config=config, dataset=dataset)
    devices = Devices(config.parallelism)
    evaluation = card["evaluation"]
    table = Evaluator(run.task, devices).run(
        devices.put_state(run.variables),
        evaluation["split"],
        trained.Setting(evaluation["num_slots"], evaluation["num_iterations"]),
    )
    return _compare(card["measures"], run.task.summarize(table.columns()))


def _own_name(config: ml_collections.ConfigDict) -> str:
    """Return the name of the store that holds only the validation data."""
    return f"{config.dataset}_{config.evaluation_split}"


def _find(
    folder: pathlib.Path, config: ml_collections.ConfigDict, card: dict[str, Any]
) -> pipeline.Dataset | None:
    """Return the dataset with the images and features of the card, or None."""
    recorded = run_data.read(folder)["features"]
    split = config.evaluation_split
    for name in (config.dataset, _own_name(config)):
        try:
            manifest = read_manifest(pathlib.Path(config.data_dir, name))
            if split not in manifest["splits"]:
                continue
            if evaluated_data(manifest, split) != card["data"]:
                continue
            dataset = pipeline.open_dataset(
                config.data_dir, name, encoder=config.encoder or None
            )
            if recorded is not None:
                run_data.check_features(recorded, dataset.feature_settings, name)
        except UserError:
            continue
        logging.info("evaluating on %s", pathlib.Path(config.data_dir, name))
        return dataset
    return None


def _create(
    folder: pathlib.Path, config: ml_collections.ConfigDict, card: dict[str, Any]
):
    """Render the validation data and extract its features, by commands."""
    data, settings = card["data"], card["data"]["settings"]
    if "generator" not in data["source"] or "min_objects" not in settings:
        raise UserError(
            f"--data_dir={config.data_dir}: does not hold the data that {folder} was "
            f"evaluated on; prepare {data['dataset']}, see docs/data.md"
        )
    store = (
        f"--dataset={data['dataset']}",
        f"--name={_own_name(config)}",
        f"--data_dir={config.data_dir}",
    )
    _run(
        "prepare",
        *store,
        f"--splits={config.evaluation_split}:{data['num_examples']}",
        *(
            f"--{name}={settings[name]}"
            for name in ("image_size", "seed", "min_objects", "max_objects")
        ),
    )
    features = run_data.read(folder)["features"]
    if features is None:
        return
    if re.fullmatch("[0-9a-f]{64}", features.get("weights", "")):
        _run("fetch-weights", f"--data_dir={config.data_dir}")
    _run("extract", *store, f"--like={folder}")


def _run(verb: str, *arguments: str):
    logging.info("running sanorm %s %s", verb, " ".join(arguments))
    command = [sys.executable, "-m", "sanorm_jax", verb, *arguments]
    if code := subprocess.run(command).returncode:
        raise UserError(f"sanorm {verb}: ended with exit code {code}; see above")


def _compare(
    recorded: dict[str, dict[str, Any]], now: dict[str, float]
) -> tuple[bool, str]:
    rows, all_met = [], True
    for kind, measure in recorded.items():
        before, after = measure["value"], float(now.get(measure["name"], math.nan))
        met = abs(after - before) <= TOLERANCE
        all_met &= met
        numbers = (f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
        rows.append([kind, *numbers, "yes" if met else "no"])
    columns = ["measure", "card", "now", "difference", f"within {TOLERANCE}"]
    return all_met, markdown(columns, rows)
