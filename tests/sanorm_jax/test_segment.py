"""Segmenting a folder of images, from the photos to the label maps."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sanorm_jax import segment, tasks, train
from sanorm_jax.core.errors import UserError
from sanorm_jax.data import pipeline
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options
from sanorm_jax.run.parameters.init_from import load_variables
from tests import commands, stores, tiny

SIZE = 16
FLAGS = ("--encoder=patches", "--patch_size=4")
NAMES = ["a.jpg", "a.png", "deep/frame_0001.png", "z.jpeg"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        small = rng.integers(0, 256, (4, 5, 3), np.uint8)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        size = (60 + 10 * number, 80 - 10 * number)
        Image.fromarray(small).resize(size, Image.Resampling.NEAREST).save(path)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    stores.write_source(path / "random", tiny.SPLITS, SIZE)
    assert _extract(path, "random", "random", *FLAGS).returncode == 0
    return path


def _extract(data_dir, name, dataset, *flags):
    options = (f"--name={name}", f"--data_dir={data_dir}", f"--dataset={dataset}")
    return commands.run("feature_extraction.extract", *options, *flags)


def _train(data, path, name="dinosaur", **changes):
    config = tiny.config(data, name, num_train_steps=2, evaluations={}, **changes)
    assert train.train(config, path) == 0
    return config, path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return _train(data, path, encoder="patches")


def _make(*arguments):
    binaries = pathlib.Path(sys.executable).parent
    return subprocess.run(
        ["make", "-o", ".venv/.run", "segment", f"BIN={binaries}", *arguments],
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"MAKEFLAGS": ""},
    )


def _labels(folder):
    files = sorted((folder / "labels").rglob("*.png"))
    found = {}
    for path in files:
        with Image.open(path) as image:
            assert image.mode == "L"
            found[path.relative_to(folder / "labels").as_posix()] = np.asarray(image)
        with Image.open(folder / "overlays" / path.relative_to(folder / "labels")) as o:
            o.load()
    return found


def test_make_segment_labels_each_photo_for_any_number_of_slots(run, photos, tmp_path):
    config, workdir = run
    done = _make(
        f"IMAGES={photos}",
        f"WORKDIR={workdir}",
        "NAME=mine",
        f"DATA_DIR={tmp_path}",
        "NUM_SLOTS=3,9",
    )
    assert done.returncode == 0, done.stderr
    dataset = pipeline.open_dataset(tmp_path, "mine", encoder="patches")
    trained_on = pipeline.open_dataset(config.data_dir, "random", encoder="patches")
    for name in ("mean", "deviation", "patch_size"):
        assert dataset.feature_settings[name] == trained_on.feature_settings[name]

    task = tasks.create(config, dataset)
    variables, step = load_variables(task, workdir)
    folder = workdir / f"segmentations/mine_test_step_{step}"
    for num_slots in (3, 9):
        found = _labels(folder / f"slots_{num_slots}_iterations_2")
        # Two names differ in their suffix alone.
        names = ["a.jpg.png", "a.png.png", "deep/frame_0001.png", "z.png"]
        assert list(found) == names
        for index, labels in enumerate(found.values()):
            batch = {
                "features": dataset.read("test", "features", [index]),
                "index": np.array([index]),
            }
            rng = train.jax.random.PRNGKey(config.evaluation_seed)
            predicted = task.predict(variables, batch, rng, num_slots, 2)
            np.testing.assert_array_equal(labels, predicted["segmentation"][0])
        assert max(labels.max() for labels in found.values()) < num_slots


def test_labeled_data_is_segmented_by_number(run):
    config, workdir = run
    folder = segment.segment(config, workdir, num_iterations=[1])
    assert folder.name == "random_validation_step_2"
    found = _labels(folder / "slots_4_iterations_1")
    assert list(found) == [f"{i}.png" for i in range(tiny.SPLITS["validation"])]


def test_label_maps_have_the_size_of_the_images(run, data):
    _, workdir = run
    config = tiny.config(data, encoder="patches", evaluation_resolution=24)
    found = _labels(segment.segment(config, workdir) / "slots_4_iterations_2")
    assert {labels.shape for labels in found.values()} == {(SIZE, SIZE)}


def test_features_with_other_settings_are_rejected(run, photos, tmp_path):
    config, workdir = run
    options = Options(source=photos, data_dir=tmp_path, image_size=SIZE)
    prepare("images", options, name="photos")
    assert (
        "pass --like=WORKDIR" in _extract(tmp_path, "photos", "images", *FLAGS).stderr
    )
    # The standardization of other images, and another size of patches.
    stores.write_source(tmp_path / "mine", {"train": 8, "validation": 8}, SIZE)
    other = ["--encoder=patches", "--patch_size=8"]
    assert _extract(tmp_path, "mine", "random", *other).returncode == 0
    # What --like gives cannot be said once more.
    twice = _extract(tmp_path, "mine", "random", *other, f"--like={workdir}")
    assert "--encoder: also set by --like" in twice.stderr
    assert twice.returncode == 2
    with pytest.raises(UserError) as caught:
        segment.segment(config, workdir, dataset="mine", data_dir=str(tmp_path))
    message = str(caught.value)
    assert "--dataset=mine: not the features that the run was trained on" in message
    assert "patch_size: 4 recorded, 8 now" in message
    assert "mean: " in message and "--like" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="not a store"):
        segment.segment(config, workdir, dataset="photos", data_dir=str(tmp_path))


def test_run_on_images_requires_its_own_image_size(data, photos, tmp_path):
    config, workdir = _train(data, tmp_path / "run", "object_discovery")
    wrong = Options(source=photos, data_dir=tmp_path, image_size=32)
    prepare("images", wrong, name="wrong")
    with pytest.raises(UserError, match="of 32 pixels, but the run was trained on 16"):
        segment.segment(config, workdir, dataset="wrong", data_dir=str(tmp_path))
    right = Options(source=photos, data_dir=tmp_path, image_size=SIZE)
    prepare("images", right, name="right")
    folder = segment.segment(config, workdir, dataset="right", data_dir=str(tmp_path))
    assert len(_labels(folder / "slots_4_iterations_2")) == len(NAMES)
    # What `make segment` runs between the two has nothing to do.
    done = _extract(tmp_path, "right", "images", f"--like={workdir}")
    assert f"nothing to do: {workdir} reads images" in done.stderr
    assert done.returncode == 0


def test_bad_input_is_rejected(run, tmp_path):
    config, workdir = run
    with pytest.raises(UserError, match="--num_slots=257: label maps hold at most 256"):
        segment.segment(config, workdir, num_slots=[257])
    with pytest.raises(UserError, match=r"data\.json: missing"):
        segment.segment(config, tmp_path)
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"data\.json: unreadable"):
        segment.segment(config, tmp_path)
