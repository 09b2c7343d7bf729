"""`docs/library.md`, run as it stands, and the trained run that it loads."""

import pathlib
import re
import shutil

import numpy as np
import pytest

import sanorm_jax
from sanorm_jax import segment, train
from sanorm_jax.core.errors import UserError
from sanorm_jax.trained import TrainedRun
from tests import tiny

PAGE = pathlib.Path(__file__).parent.parent / "docs/library.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
TASKS = ("dinosaur", "object_discovery", "property_prediction")


@pytest.fixture(scope="module", params=TASKS)
def trained(request, data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    normalization = {"update_normalization": "batch_norm"}
    config = tiny.config(data_dir, request.param, num_train_steps=2, **normalization)
    assert train.train(config, workdir) == 0
    return workdir, config


def _inputs(config, run: TrainedRun, count=4) -> np.ndarray:
    rng = np.random.default_rng(0)
    if config.task == "dinosaur":
        return rng.normal(size=(count, *run.input_shape)).astype(np.float16)
    return rng.integers(0, 256, (count, *run.input_shape), np.uint8)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.split("\n")[-2][:30])
def test_every_snippet_runs(block, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "experiments/shapes" in block:
        config = tiny.config(data_dir, num_train_steps=2)
        assert train.train(config, tmp_path / "experiments/shapes") == 0
    if "datasets/" in block:
        name = re.search(r'"datasets/(.*?)"', block)[1]
        shutil.copytree(data_dir / "random-random", tmp_path / "datasets" / name)
    exec(compile(block, str(PAGE), "exec"), {})


def test_the_page_has_its_four_snippets():
    assert len(BLOCKS) == 4


def test_a_run_is_loaded_without_its_data(trained, tmp_path):
    workdir, config = trained
    moved = shutil.copytree(workdir, tmp_path / "elsewhere")
    text = (moved / "config.json").read_text()
    assert config.data_dir in text
    (moved / "config.json").write_text(text.replace(config.data_dir, "/nowhere"))
    run = sanorm_jax.load(moved)
    inputs = _inputs(config, run)
    labels = run.segment(inputs, num_slots=6)
    assert labels.shape == (4, 16, 16)
    assert 0 <= labels.min() <= labels.max() < 6
    attention = np.asarray(run.attend(inputs, num_slots=6))
    np.testing.assert_allclose(attention.sum(1), 1, rtol=1e-5)
    assert attention.shape[1] == 6
    assert run.step == 2


def test_it_segments_as_the_command_does(trained):
    workdir, config = trained
    run = sanorm_jax.load(workdir)
    folder = segment.segment(config, workdir, num_slots=[5])
    (labels_dir,) = folder.glob("*/labels")
    from PIL import Image

    expected = np.stack(
        [np.asarray(Image.open(path)) for path in sorted(labels_dir.glob("*.png"))]
    )
    field = "features" if config.task == "dinosaur" else "image"
    root = f"random-{config.encoder}" if config.task == "dinosaur" else "random"
    store = sanorm_jax.Store.open(pathlib.Path(config.data_dir) / root)
    found = run.segment(
        store.column("validation", field), num_slots=5, seed=config.evaluation_seed
    )
    assert (found == expected).mean() > 0.99


def test_inputs_of_another_shape_are_a_one_line_error(trained):
    workdir, config = trained
    run = sanorm_jax.load(workdir)
    with pytest.raises(UserError, match="inputs: shape") as error:
        run.segment(_inputs(config, run)[:, :3])
    assert "\n" not in str(error.value)


def test_folder_without_a_run_is_rejected(tmp_path):
    with pytest.raises(UserError, match="contains no run"):
        sanorm_jax.load(tmp_path)
