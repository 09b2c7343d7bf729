"""Natural images through the whole path, and their measures with ignored pixels."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks
from sklearn.metrics import adjusted_rand_score

from sanorm_jax import evaluate, segment, tasks, train
from sanorm_jax.configs import dinosaur_coco, dinosaur_voc
from sanorm_jax.data import pipeline, prepare
from sanorm_jax.data.sources.base import Options
from sanorm_jax.drawing import figures, painting
from sanorm_jax.feature_extraction import features
from sanorm_jax.feature_extraction.options import Options as EncoderOptions
from sanorm_jax.metrics import segmentation
from sanorm_jax.report import run_report
from tests.data import natural_image_fixtures as fixtures
from tests.sanorm_jax.metrics import plain

SIZE = 32
CONFIGS = {"coco": dinosaur_coco, "voc": dinosaur_voc}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("datasets")
    published = tmp_path_factory.mktemp("published")
    sources = {
        "coco": fixtures.write_coco(published / "coco"),
        "voc": fixtures.write_voc(published / "voc", with_sbd=True),
    }
    for name, source in sources.items():
        options = Options(source=source, data_dir=data_dir, image_size=SIZE)
        prepare.prepare(name, options)
        features.extract(data_dir, name, "patches", EncoderOptions(patch_size=4))
    return data_dir


@pytest.mark.parametrize("name", CONFIGS)
def test_from_published_files_to_the_report(stores, tmp_path, name):
    config = CONFIGS[name].get_config()
    config.update({"data_dir": str(stores), "encoder": "patches", "num_train_steps": 3})
    config.update({"batch_size": 2, "evaluation_batch_size": 2, "num_slots": 3})
    config.update({"evaluation_resolution": SIZE, "compilation_cache": False})
    config.model.update({"slot_dim": 8, "hidden_dim": 8, "decoder_hidden_dim": 8})
    config.evaluations.default = {"num_slots": 3, "num_iterations": 2}
    assert train.train(config.lock(), tmp_path) == 0
    folder = evaluate.evaluate(config, tmp_path, num_slots=[3, 5])
    rows = json.loads((folder / "results.json").read_text())
    whole = next(r for r in rows if r["num_objects"] == "all" and r["num_slots"] == 5)
    measures = ("mbo", "mbo_class", "miou", "miou_class", "ari", "fg_ari")
    found = {m: whole[f"{m}_masks_refined"] for m in measures}
    assert all(np.isfinite(value) for value in found.values())
    dataset = pipeline.open_dataset(stores, name)
    counts = dataset.read("validation", "num_objects", range(whole["num_examples"]))
    assert whole["num_with_objects"] == (counts > 0).sum()
    page = run_report.write(tmp_path)
    assert "mBO" in page.read_text()
    made = segment.segment(config, tmp_path, num_slots=[4])
    labels = sorted((made / "slots_4_iterations_3" / "labels").glob("*.png"))
    assert len(labels) == whole["num_examples"]
    with Image.open(labels[0]) as image:
        assert image.size == (SIZE, SIZE)


@pytest.mark.parametrize("name", CONFIGS)
def test_evaluation_matches_plain_implementations(stores, name):
    config = CONFIGS[name].get_config()
    config.update({"data_dir": str(stores), "encoder": "patches"})
    dataset = tasks.open_dataset(config)
    task = tasks.create(config, dataset)
    rows = range(dataset.num_examples("validation"))
    batch = {f: dataset.read("validation", f, rows) for f in task.label_fields}
    assert "category" in batch and (batch["segmentation"] < 0).any()
    num_slots, max_objects = 4, dataset.settings["max_objects"]
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, num_slots, (len(rows), SIZE, SIZE))
    values = task.segmentation_measures(batch, SIZE, predicted, num_slots)
    for row in rows:
        known = batch["segmentation"][row] >= 0
        true, segments = batch["segmentation"][row][known], predicted[row][known]
        # Label i + 1 is of row i, 0 the background; classes count from 0.
        classes = np.concatenate([[-1], batch["category"][row]])[true] + 1
        expected = {
            "ari": adjusted_rand_score(true, segments),
            "fg_ari": plain.fg_ari(true, segments),
            "mbo": plain.mean_best_overlap(true, segments, max_objects + 1, num_slots),
            "miou": plain.mean_iou(true, segments, max_objects + 1, num_slots),
            "mbo_class": plain.mean_best_overlap(classes, segments, 91, num_slots),
            "miou_class": plain.mean_iou(classes, segments, 91, num_slots),
        }
        for measure, value in expected.items():
            assert float(values[measure][row]) == pytest.approx(
                value, abs=1e-6, nan_ok=True
            ), measure


def test_overlaps_match_pycocotools():
    rng = np.random.default_rng(1)
    true, predicted = (rng.integers(0, n, (4, 20, 24)) for n in (6, 4))
    found = segmentation.mean_best_overlap(
        true.reshape(4, -1), predicted.reshape(4, -1), num_true=6, num_predicted=4
    )

    def encode(labels, value):
        return masks.encode(np.asfortranarray(labels == value).astype(np.uint8))

    for t, p, value in zip(true, predicted, found, strict=True):
        objects = [encode(t, label) for label in range(1, 6)]
        segments = [encode(p, label) for label in range(4)]
        # Neither is a crowd: intersection over union.
        overlap = masks.iou(segments, objects, [0] * 5)
        assert float(value) == pytest.approx(overlap.max(0).mean(), abs=1e-6)


def test_ignored_pixels_are_white_in_figures():
    """They are white, and move no segment's color."""
    true = np.ones((1, 8, 8), int)
    true[0, :6] = -1
    true[0, 6:, 4:] = 0
    predicted = np.zeros((1, 8, 8), int)
    predicted[0, 6:, :4] = 1
    colors = painting.matched_colors(true[0], predicted[0], 2)
    np.testing.assert_array_equal(colors[0], painting.BACKGROUND)
    np.testing.assert_array_equal(colors[1], painting.segment_colors(1)[0])
    image = np.zeros((1, 8, 8, 3))
    figure = figures.segmentation_grid(image, true, {"slots": predicted})
    shown = figure.axes[1].images[0].get_array()
    assert (shown[: shown.shape[0] // 2] == 1).all()
