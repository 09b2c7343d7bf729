"""The paper's studies take their first steps on data in the published formats."""

import importlib

from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.study import jobs, page
from tests import stores
from tests.data import fixtures, movi_fixture

SMALL = {
    "slot_dim": 8,
    "hidden_dim": 8,
    "feature_dim": 8,
    "decoder_hidden_dim": 8,
    "decoder_num_hidden_layers": 1,
}


def _study(name, data_dir, **base):
    """Return a shipped study with small models, few steps and few evaluations."""
    study = importlib.import_module(f"sanorm_jax.configs.{name}").get_config()
    config = study.base
    config.update({"data_dir": str(data_dir), "num_train_steps": 2, "batch_size": 4})
    config.update({"evaluation_batch_size": 4, "num_figure_examples": 0} | base)
    config.model.update({k: v for k, v in SMALL.items() if k in config.model})
    config.evaluations = {}
    study.evaluation.update({"num_slots": (7,), "num_samples": 2})
    study.evaluation.sample_slots = study.table_slots = (7,)
    return study.lock()


def _run_a_job(study, workdir):
    """Run the job with most state, a batch norm; returns the study's page."""
    created = jobs.create(study, workdir)
    assert len(created) == 4 * 3 * 2  # normalizations, seeds, training settings
    assert len({job.train_setting for job in created}) == 2
    job = next(job for job in created if job.variant == "batch_norm")
    assert jobs.run(job, study) == 0
    assert jobs.is_finished(job, study)
    assert workdir_lib.read_lines(job.workdir / "metrics.jsonl")[-1]["step"] == 2
    return page.write(study, created, workdir).read_text()


def test_clevr_with_masks(tmp_path):
    data_dir, records = tmp_path / "datasets", tmp_path / "clevr.tfrecords"
    fixtures.write_clevr_with_masks(records, [3, 10, 5, 6, 4, 9, 5, 7, 4, 6])
    splits = {"train": 6, "validation": 1, "test": 3}
    prepare(
        "clevr_with_masks",
        Options(source=records, data_dir=data_dir, splits=splits, image_size=32),
    )
    study = _study("study_clevr", data_dir, evaluation_resolution=32)
    html = _run_a_job(study, tmp_path / "study")
    assert "FG-ARI" in html


def test_movi_c_and_zero_shot_to_movi_d(tmp_path):
    data_dir = tmp_path / "datasets"
    for dataset in ("movi_c", "movi_d"):
        folder = movi_fixture.write(tmp_path / "tfds", dataset)
        root = prepare(
            dataset, Options(source=folder, data_dir=data_dir, image_size=128)
        )
        stores.write_features(data_dir / f"{dataset}-random", Store.open(root))
    study = _study(
        "study_movi",
        data_dir,
        encoder="random",
        evaluation_resolution=32,
        min_objects=1,
    )
    html = _run_a_job(study, tmp_path / "study")
    assert "movi_c10 on movi_d" in html
