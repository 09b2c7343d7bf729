"""The numbers of a study: filtered, not computed again; and its page."""

import csv
import json
import math

import numpy as np
import pytest

from sanorm_jax import baselines, tasks
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.metrics import segmentation
from sanorm_jax.study import jobs, page, results
from tests.sanorm_jax.study.conftest import study_config


@pytest.fixture(scope="module")
def collected(study):
    config, created, _ = study
    data = results.Data("random", created[0], config)
    return data, results.collect(config, created, [data])


def test_rows_count_the_images_of_their_range(study, collected):
    _, (job, _), _ = study
    data, rows = collected
    table, _ = jobs.read_arrays(job.table_path("random", 5))
    mine = results.select(rows, variant="weighted_mean", num_slots=5, min_objects=2)
    assert {row["max_objects"] for row in mine} >= {4, 7, 6}
    for row in mine:
        part = (table["num_objects"] >= 2) & (
            table["num_objects"] <= row["max_objects"]
        )
        assert row["num_examples"] == part.sum()
        value = table["fg_ari_attention_refined"][part].mean()
        assert row["fg_ari_attention_refined"] == pytest.approx(value, rel=1e-6)
        assert row["resolution"] == 16
    least, most = data.ranges(6)[-1]
    assert least == most == data.num_objects.max()


def test_range_with_more_objects_than_in_training_is_included(collected):
    data, _ = collected
    most = int(data.num_objects.max())
    assert (2, 6) in data.ranges(6) and (7, most) in data.ranges(6)
    assert all(low <= high for low, high in data.ranges(0))


def test_baselines_are_those_of_the_images_in_the_range(study, collected):
    config, _, _ = study
    data, rows = collected
    dataset = tasks.open_dataset(config.base)
    indices = pipeline.select(dataset, "validation", min_objects=2, max_objects=6)
    labels = dataset.read("validation", "segmentation", indices)
    blocks = np.broadcast_to(baselines.block_segmentation(16, 3), labels.shape)
    expected = segmentation.adjusted_rand_index(
        labels, blocks, num_true=11, num_predicted=3, ignore_background=True
    ).mean()
    found = results.select(results.baseline_rows(rows, [data]), max_objects=6)
    (row,) = results.select(found, method="blocks", num_slots=3, min_objects=2)
    assert row["num_examples"] == len(indices)
    assert row["fg_ari"] == pytest.approx(float(expected), abs=1e-6)
    assert {row["method"] for row in found} == {"constant", "blocks", "oracle"}


def test_summary_is_mean_and_spread_over_seeds():
    place = {"dataset": "d", "num_slots": 7, "min_objects": 1, "max_objects": 6}
    place |= {"train_setting": "t", "variant": "n", "resolution": 8}
    rows = [place | {"num_examples": 4, "seed": s, "m": v} for s, v in ((0, 1), (1, 2))]
    (line,) = results.summarize(rows, ["m"])
    assert line["m_mean"] == 1.5 and line["num_seeds"] == 2
    assert line["m_std"] == pytest.approx(math.sqrt(0.5))
    (line,) = results.summarize(rows[:1], ["m"])
    assert math.isnan(line["m_std"])


def test_the_page_and_its_files(study):
    config, created, workdir = study
    path = page.write(config, created, workdir)
    folder, text = path.parent, path.read_text()
    rows = json.loads((folder / "results.json").read_text())
    with (folder / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    summary = json.loads((folder / "summary.json").read_text())
    assert {line["ari_masks_refined_std"] for line in summary} == {None}
    assert "src=" not in text.replace('src="data:', "")
    for name in ("weighted mean", "weighted sum", "16 x 16 pixels"):
        assert name in text
    for name in ("oracle", "grid of blocks", "constant segmentation"):
        assert f">{name}</th>" in text
    models = results.select(rows, method="model")
    assert len(models) < len(rows)
    cell = results.select(
        models, variant="weighted_sum", num_slots=5, min_objects=2, max_objects=6
    )[0]
    assert f"<td>{cell['fg_ari_attention_refined']:.3f}</td>" in text
    pictures = {p.name for p in folder.glob("*.png")}
    assert {
        "attention_2_6_few_random.png",
        "masks_2_6_few_random.png",
        "masks_7_10_few_random.png",
        "slot_count_few_random.png",
        "grid_few_random.png",
        "samples_slots_5_few_random.png",
        "slot_entropy_few_random.png",
        "slot_mass_few_random.png",
        "empty_slots_few_random.png",
    } <= pictures
    record = json.loads((folder / "study.json").read_text())
    assert record["jobs"][created[0].name]["train_s"] > 0
    assert record["versions"]["jax"]
    assert record["settings"]["base"]["num_train_steps"] == 2


def test_unfinished_job_is_listed(study, tmp_path):
    config, created, _ = study
    changed = config.copy_and_resolve_references()
    changed.seeds = (0, 1)
    more = [*created, jobs.create(changed, tmp_path)[2]]
    text = page.write(changed, more, tmp_path).read_text()
    assert "Not done: few_weighted_mean_seed_1" in text
    with pytest.raises(UserError, match="no job of the study is done"):
        page.write(changed, more[2:], tmp_path)


def test_unknown_measure_is_rejected(study, tmp_path):
    config, created, _ = study
    changed = config.copy_and_resolve_references()
    changed.measures = ("fg_ari_masks",)
    with pytest.raises(UserError, match=r"no fg_ari_masks; there are.*mse"):
        page.write(changed, created, tmp_path)


def test_the_page_needs_no_data(study):
    _, _, workdir = study
    config = study_config("/nowhere")
    created = jobs.create(config, workdir)
    assert created[0].config.data_dir == "/nowhere"
    assert "constant segmentation" in page.write(config, created, workdir).read_text()


def test_tables_of_other_data_are_rejected(study):
    config, (job, *_), _ = study
    path = job.baselines_path("random")
    columns, settings = jobs.read_arrays(path)
    content = path.read_bytes()
    settings["fingerprints"] = {"source": "another"}
    np.savez(path, settings=np.array(json.dumps(settings)), **columns)
    try:
        data = results.Data("random", job, config)
        with pytest.raises(UserError, match="has other data than") as caught:
            results.collect(config, [job], [data])
    finally:
        path.write_bytes(content)
    assert str(job.table_path("random", 3)) in str(caught.value)
