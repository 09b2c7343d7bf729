"""The jobs of a study: their list, what they leave, and that it is done once."""

import json

import numpy as np
import pytest

from sanorm_jax import evaluate
from sanorm_jax.core.errors import UserError
from sanorm_jax.study import jobs, page, results, thresholds
from tests.sanorm_jax.study.conftest import study_config


def test_all_variants_of_the_first_seed_come_first(data_dir, tmp_path):
    config = study_config(data_dir, seeds=(3, 4))
    with config.unlocked():
        config.train_settings.many = {"num_slots": 6}
    created = jobs.create(config, tmp_path)
    assert [job.name for job in created[:4]] == [
        "few_weighted_mean_seed_3",
        "few_weighted_sum_seed_3",
        "many_weighted_mean_seed_3",
        "many_weighted_sum_seed_3",
    ]
    assert len(created) == 8
    assert created[1].config.update_normalization == "weighted_sum"
    assert [created[i].config.num_slots for i in (0, 2)] == [4, 6]
    assert created[-1].config.seed == 4
    assert config.base.num_slots == 4 and config.base.max_objects == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ("weighted_mode",)}, "weighted_mode"),
        ({"seeds": ()}, "config.seeds: is empty"),
        ({"train_settings": {"few": {"num_slotz": 3}}}, "few.*num_slotz"),
        ({"train_settings": {"few": {"num_slots": "x"}}}, "few"),
    ],
)
def test_unknown_names_are_rejected(changes, message, data_dir, tmp_path):
    config = study_config(data_dir)
    for field, value in changes.items():
        with config.ignore_type():
            config[field] = value
    with pytest.raises(UserError, match=message) as caught:
        jobs.create(config, tmp_path)
    assert "\n" not in str(caught.value)


def test_table_matches_an_evaluation_of_the_run(study):
    _, (job, _), _ = study
    folder = evaluate.evaluate(job.config, job.workdir, num_slots=[5])
    (whole, *_) = json.loads((folder / "results.json").read_text())
    columns, settings = jobs.read_arrays(job.table_path("random", 5))
    assert settings["step"] == 2 and settings["resolution"] == 16
    assert len(columns["index"]) == whole["num_examples"]
    for name in ("fg_ari_masks_refined", "mse", "slot_entropy_attention"):
        assert columns[name].mean() == pytest.approx(whole[name], rel=1e-5)
    assert columns["slot_mass_attention"].shape == (whole["num_examples"], 5)


def test_only_missing_jobs_are_repeated(study):
    config, (job, _), _ = study
    assert jobs.is_finished(job, config)
    kept, lost = job.table_path("random", 3), job.table_path("random", 5)
    before, content = kept.stat().st_mtime_ns, jobs.read_arrays(lost)[0]
    lost.unlink()
    assert jobs.is_trained(job) and not jobs.is_finished(job, config)
    checkpoints = sorted((job.workdir / "checkpoints").iterdir())
    assert jobs.run(job, config) == 0
    assert sorted((job.workdir / "checkpoints").iterdir()) == checkpoints
    assert jobs.is_finished(job, config)
    assert kept.stat().st_mtime_ns == before
    for name, column in jobs.read_arrays(lost)[0].items():
        np.testing.assert_array_equal(column, content[name])


def test_changed_evaluation_settings_require_new_tables(study):
    config, (job, _), _ = study
    for field, value in (("num_iterations", 3), ("num_slots", (3, 7))):
        changed = config.copy_and_resolve_references()
        changed.evaluation[field] = value
        assert not jobs.is_finished(job, changed)


def test_samples_are_sorted_by_number_of_objects(study):
    _, (job, other), _ = study
    columns, _ = jobs.read_arrays(job.samples_path("random", 5))
    same, _ = jobs.read_arrays(other.samples_path("random", 5))
    np.testing.assert_array_equal(columns["index"], same["index"])
    table, _ = jobs.read_arrays(job.table_path("random", 5))
    counts = dict(zip(table["index"], table["num_objects"], strict=True))
    shown = [counts[i] for i in columns["index"]]
    assert shown == sorted(shown) and shown[0] >= 2 and shown[0] < shown[-1]
    assert columns["segmentation"].shape == (2, 16, 16)


def test_times_are_summed(study):
    config, (job, _), _ = study
    seconds = jobs.times(job, config)
    assert seconds["train_s"] > 0 and seconds["evaluate_s"] > 0


def test_mechanisms_and_merging_are_variants(data_dir, tmp_path):
    config = study_config(
        data_dir,
        variants=("weighted_mean", "queries"),
        mechanisms={
            "queries": {
                "update_normalization": "layer_norm",
                "model": {"slot_init": "learned"},
            }
        },
        merged={"merged_mean": "weighted_mean"},
        merge_thresholds=(2.0,),
        train_settings={"few": {"max_objects": 6, "num_slots": 5}},
        evaluation={"sample_slots": (4, 5)},  # 4 is not in `num_slots`
    )
    created = jobs.create(config, tmp_path)
    assert created[1].config.model.slot_init == "learned"
    assert created[1].config.update_normalization == "layer_norm"
    assert [jobs.run(job, config) for job in created] == [0, 0]
    assert all(jobs.is_finished(job, config) for job in created)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert created[0].samples_path("random", 4).exists()
    assert not created[1].samples_path("random", 4).exists()

    page.write(config, created, tmp_path)
    assert (tmp_path / "report" / "samples_slots_4_few_random.png").exists()
    rows = json.loads((tmp_path / "report" / "results.json").read_text())
    rows = results.select(rows, method="model")
    evaluated = {(row["variant"], row["num_slots"]) for row in rows}
    assert evaluated == {
        ("weighted_mean", 3),
        ("weighted_mean", 5),
        ("merged_mean", 3),
        ("merged_mean", 5),
        ("queries", 5),
    }
    # A distance of 2 merges all slots, and a single segment has an ARI of 0.
    merged = results.select(rows, variant="merged_mean")
    assert all(row["merge_threshold"] == 2 for row in merged)
    assert all(row["ari_masks_refined"] == pytest.approx(0) for row in merged)
    apart = results.select(rows, variant="weighted_mean", merge_threshold=0)
    assert any(abs(row["ari_masks_refined"]) > 1e-3 for row in apart)


def test_a_threshold_is_chosen_on_training_images(study, data_dir):
    _, (job, _), _ = study
    grid = (2.0, 0.01, 0.0)
    config = study_config(data_dir, merge_thresholds=grid)
    path = job.tables / "thresholds.json"
    chosen = thresholds.choose(job.workdir, job.config, config, path, lambda: None)
    found = json.loads(path.read_text())
    assert found["settings"]["split"] == "train"
    _, ari = found["scores"][0]
    assert ari == pytest.approx(0)  # a single segment
    assert chosen == grid[np.argmax(np.mean(found["scores"], axis=1))]


def test_queries_need_their_number_of_slots_in_the_evaluation(data_dir, tmp_path):
    config = study_config(
        data_dir,
        variants=("queries",),
        mechanisms={"queries": {"model": {"slot_init": "learned"}}},
    )
    with pytest.raises(UserError, match=r"config\.evaluation\.num_slots: lacks 4"):
        jobs.create(config, tmp_path)
