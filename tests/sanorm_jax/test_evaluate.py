import csv
import json
import shutil

import numpy as np
import pytest

from sanorm_jax import baselines, evaluate, tasks, train
from sanorm_jax.core.errors import UserError
from sanorm_jax.metrics import segmentation
from sanorm_jax.report import run_report, status
from sanorm_jax.run.distribution.devices import Devices
from tests import tiny


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    config = tiny.config(data_dir, num_figure_examples=2)
    assert train.train(config, path) == 0
    return config, path


def _results(folder, baselines=False):
    rows = json.loads((folder / "results.json").read_text())
    return [row for row in rows if (row["method"] != "model") == baselines]


def test_a_grid_of_slots_iterations_and_objects_is_written(run):
    config, path = run
    folder = evaluate.evaluate(
        config, path, num_slots=[3, 5], num_iterations=[1], max_objects=[6, 10]
    )
    rows = _results(folder)
    whole = [row for row in rows if row["num_objects"] == "all"]
    assert [(r["num_slots"], r["max_objects"]) for r in whole] == [
        (3, 6),
        (3, 10),
        (5, 6),
        (5, 10),
    ]
    assert whole[1]["num_examples"] == tiny.SPLITS["validation"]
    names = {
        f"{score}_{maps}_{method}"
        for score in ("ari", "fg_ari", "covering", "count_error", "pair_f1", "corloc")
        for maps in ("masks", "attention")
        for method in ("refined", "repeated")
    }
    assert names <= whole[0].keys()
    parts = [r for r in rows if r["num_slots"] == 3 and r["max_objects"] == 10]
    counts = [row["num_examples"] for row in parts]
    assert counts[0] == sum(counts[1:])
    mean = sum(r["num_examples"] * r["mse"] for r in parts[1:]) / counts[0]
    assert mean == pytest.approx(parts[0]["mse"], rel=1e-6)
    with (folder / "results.csv").open() as file:
        methods = [row["method"] for row in csv.DictReader(file)]
    assert methods.count("model") == len(rows)
    assert (folder / "fg_ari_by_num_slots.png").exists()


def test_baselines_are_rows_of_the_same_images(run):
    config, path = run
    folder = evaluate.evaluate(config, path, num_slots=[3, 5], max_objects=[6, 10])
    rows = _results(folder, baselines=True)
    whole = {
        (row["method"], row["num_slots"]): row
        for row in rows
        if (row["num_objects"], row["max_objects"]) == ("all", 6)
    }
    kinds = {("constant", None), ("blocks", 3), ("blocks", 5), ("oracle", None)}
    assert kinds <= whole.keys()
    (model,) = (
        row
        for row in _results(folder)
        if (row["num_objects"], row["max_objects"]) == ("all", 6)
        and (row["num_slots"], row["num_iterations"]) == (3, 2)
    )
    task = tasks.create(config, tasks.open_dataset(config))
    indices = evaluate.Evaluator(task, Devices("jit")).select("validation", 6)
    labels = task.dataset.read("validation", "segmentation", indices)
    blocks = np.broadcast_to(baselines.block_segmentation(16, 3), labels.shape)
    values = segmentation.segmentation_metrics(
        labels, blocks, num_true=11, num_predicted=3
    )
    for name, value in values.items():
        found = whole["blocks", 3][name]
        assert found == pytest.approx(float(np.mean(value)), abs=1e-6)
    for row in whole.values():
        assert row["num_examples"] == model["num_examples"] == len(indices)
    assert whole["constant", None]["ari"] == pytest.approx(0, abs=1e-6)
    assert whole["oracle", None]["ari"] > whole["blocks", 5]["ari"]


def _settings(rows):
    whole = [row for row in rows if row["num_objects"] == "all"]
    return [(row["num_slots"], row["num_iterations"]) for row in whole]


def test_rows_of_evaluations_are_merged(data_dir, tmp_path):
    config = tiny.config(data_dir, num_train_steps=2, evaluations={})
    assert train.train(config, tmp_path) == 0
    folder = evaluate.evaluate(config, tmp_path, num_slots=[4])
    assert not (folder / "fg_ari_by_num_slots.png").exists()
    first = _results(folder)
    evaluate.evaluate(config, tmp_path, num_slots=[3], num_iterations=[1])
    # Evaluated again, a row is replaced.
    changed = [row | {"mse": -1.0} for row in _results(folder)]
    changed += _results(folder, baselines=True)
    (folder / "results.json").write_text(json.dumps(changed))
    evaluate.evaluate(config, tmp_path, num_slots=[4])
    rows = _results(folder)
    assert _settings(rows) == [(3, 1), (4, 2)]
    assert [row for row in rows if row["num_slots"] == 4] == first
    kinds = [
        (row["method"], row["num_slots"])
        for row in _results(folder, baselines=True)
        if row["num_objects"] == "all"
    ]
    expected = [("blocks", 3), ("blocks", 4), ("constant", None), ("oracle", None)]
    assert kinds == expected
    assert (folder / "fg_ari_by_num_slots.png").exists()
    page = run_report.write(tmp_path).read_text()
    assert "More slots than in training" in page


def test_a_trained_run_is_evaluated_with_merging(run):
    config, path = run
    plain = _results(evaluate.evaluate(config, path, num_slots=[5]))
    folder = evaluate.evaluate(config, path, num_slots=[5], merge_threshold=2.0)
    assert folder.name.endswith("_merge_2")
    # At the largest distance, all slots of an image become one.
    merged = _results(folder)
    assert [r["slots_per_object_masks_refined"] for r in merged] == [1.0] * len(merged)
    assert _results(evaluate.evaluate(config, path, num_slots=[5])) == plain
    with pytest.raises(UserError, match="--merge_threshold=3: must be"):
        evaluate.evaluate(config, path, merge_threshold=3)


def test_rows_of_other_data_are_dropped(data_dir, tmp_path, caplog):
    config = tiny.config(data_dir, num_train_steps=2, evaluations={})
    assert train.train(config, tmp_path) == 0
    folder = evaluate.evaluate(config, tmp_path, num_slots=[4])
    note = json.loads((folder / "made_with.json").read_text())
    note["fingerprints"] = {"source": "another"}
    (folder / "made_with.json").write_text(json.dumps(note))
    evaluate.evaluate(config, tmp_path, num_slots=[5])
    assert _settings(_results(folder)) == [(5, 2)]
    assert "of another config or other data" in caplog.text


def test_results_do_not_depend_on_batch_size_or_other_examples(run):
    config, path = run
    rows = []
    for size in (8, 3):
        config = tiny.config(
            config.data_dir, evaluation_batch_size=size, num_figure_examples=0
        )
        rows.append(_results(evaluate.evaluate(config, path)))
    for one, other in zip(*rows, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                np.testing.assert_allclose(value, other[name], rtol=1e-5, atol=1e-6)
            else:
                assert value == other[name]


def test_status_reports_the_state_of_a_run(run):
    _, path = run
    told = status.read(path)
    assert (told["step"], told["num_train_steps"]) == (6, 6)
    assert told["finished"]
    assert told["last_checkpoint"] == 6
    assert told["restarts"] == 0
    assert not told["running"]
    assert told["loss"] > 0
    assert "default/fg_ari_masks_refined" in told


def test_the_report_is_one_page_of_the_results(run):
    config, path = run
    folder = evaluate.evaluate(config, path, num_slots=[4, 5])
    page = run_report.write(path).read_text()
    assert page.startswith("<!DOCTYPE html>")
    for row in _results(folder)[:1]:
        assert f"{row['fg_ari_masks_refined']:.3f}"[:4] in page
    assert "grid of blocks" in page
    assert "outlines of the segments" in page
    assert "Over- and under-segmentation" in page


def test_the_report_needs_neither_data_nor_checkpoint(run, tmp_path):
    config, path = run
    evaluate.evaluate(config, path, num_slots=[4, 5])
    alone = tmp_path / "run"
    shutil.copytree(path, alone, ignore=shutil.ignore_patterns("state"))
    text = (alone / "config.json").read_text()
    assert config.data_dir in text
    (alone / "config.json").write_text(text.replace(config.data_dir, "/nowhere"))
    page = run_report.write(alone).read_text()
    for name in ("constant segmentation", "grid of blocks, 5 slots", "oracle"):
        assert name in page


def test_missing_runs_and_checkpoints_are_reported(data_dir, tmp_path):
    config = tiny.config(data_dir)
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate.evaluate(config, tmp_path)


def test_numbers_out_of_range_are_rejected(run):
    config, path = run
    with pytest.raises(UserError, match="--num_slots=0"):
        evaluate.evaluate(config, path, num_slots=[0])
    with pytest.raises(UserError, match="no checkpoint of step 5"):
        evaluate.evaluate(config, path, step=5)


def test_another_run_can_start_from_its_parameters(run, data_dir, tmp_path):
    config, path = run
    config = tiny.config(data_dir, init_from=str(path), num_figure_examples=0)
    begun = _results(evaluate.evaluate(config, tmp_path / "new"))
    ended = _results(evaluate.evaluate(config, path))
    for one, other in zip(begun, ended, strict=True):
        assert one["step"] == 0
        assert other["step"] == 6
        assert one["mse"] == other["mse"]
    assert train.train(config, tmp_path / "new") == 0
