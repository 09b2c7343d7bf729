"""Selection of the threshold of merging, on training images.

The threshold with the highest mean of FG-ARI and ARI of the decoder's masks is used.
ARI alone prefers little merging, and FG-ARI alone much. The selection is made at the
largest number of slots that the study evaluates, where merging matters most. It does
not use the images of the report.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import ml_collections

from sanorm_jax import evaluate, tasks, trained
from sanorm_jax.core import files
from sanorm_jax.run.distribution.devices import Devices

MEASURES = ("fg_ari_masks_refined", "ari_masks_refined")
SPLIT = "train"
NUM_EXAMPLES = 240


def choose(
    workdir: pathlib.Path,
    config: ml_collections.ConfigDict,
    study: ml_collections.ConfigDict,
    path: pathlib.Path,
    check: Callable[[], None],
) -> float:
    """Return the threshold for a run, and write the scores of all thresholds to a file.

    With the same settings, the file is read instead. `check` is called between batches
    and may raise to stop.
    """
    setting = trained.Setting(
        max(study.evaluation.num_slots), study.evaluation.num_iterations
    )
    settings: dict[str, Any] = {
        "measures": list(MEASURES),
        "split": SPLIT,
        "num_examples": NUM_EXAMPLES,
        "step": config.num_train_steps,
        "thresholds": list(study.merge_thresholds),
        **setting._asdict(),
    }
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] == settings:
            return found["chosen"]
    config = ml_collections.ConfigDict(config.to_dict())
    config.evaluation_min_objects = config.min_objects
    config.evaluation_max_objects = config.max_objects
    config.num_validation_examples = NUM_EXAMPLES
    config.init_from = ""
    dataset = tasks.open_dataset(config)
    run = trained.open_run(
        workdir, config.num_train_steps, config=config, dataset=dataset
    )
    devices = Devices(config.parallelism)
    variables = devices.put_state(run.variables)
    scores = []
    for threshold in study.merge_thresholds:
        config.merge_threshold = threshold
        # The task reads the threshold while it is traced, so each needs its own.
        task = tasks.create(config.copy_and_resolve_references(), dataset)
        evaluator = evaluate.Evaluator(task, devices)
        columns = evaluator.run(variables, SPLIT, setting, check=check).columns()
        scores.append([float(columns[name].mean()) for name in MEASURES])
    means = [sum(values) / len(values) for values in scores]
    chosen = study.merge_thresholds[means.index(max(means))]
    content = {"settings": settings, "scores": scores, "chosen": chosen}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, files.to_json(content))
    return chosen
