"""Published models: written from a run, loaded by name, evaluated anew."""

import importlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import sanorm_jax
from sanorm_jax import segment, train
from sanorm_jax.core import published
from sanorm_jax.core.errors import UserError
from sanorm_jax.data.prepare import prepare
from sanorm_jax.data.sources.base import Options
from sanorm_jax.data.store import Store
from sanorm_jax.published import check, table
from sanorm_jax.published.publish import publish
from sanorm_jax.run.folder import workdir as workdir_lib
from sanorm_jax.run.parameters import init_from
from tests import commands, stores, tiny

CARD_FIELDS = {"config_file": "configs/dinosaur.py", "license": "MIT"}
EVALUATIONS = {"default": {"num_slots": 4, "num_iterations": 2}}


def _train(data_dir, workdir, name="dinosaur", **changes):
    changes = {"num_train_steps": 2, "evaluations": EVALUATIONS} | changes
    config = tiny.config(data_dir, name, **changes)
    assert train.train(config, workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return _train(data_dir, path, update_normalization="batch_norm")


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    done = commands.run(
        "sanorm_jax",
        "publish",
        run,
        "--name=random/batch_norm",
        *(f"--{name}={value}" for name, value in CARD_FIELDS.items()),
        f"--output={path}",
    )
    assert done.returncode == 0, done.stderr
    return path / "random/batch_norm"


@pytest.fixture
def copy(folder, tmp_path, monkeypatch):
    """Return the name of a copy that is found as models of the package are."""
    shutil.copytree(folder, tmp_path / "models/random/batch_norm")
    monkeypatch.setattr(published, "FOLDER", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return "random/batch_norm"


def test_a_published_model_computes_what_its_run_computes(run, copy):
    original, loaded = sanorm_jax.load(run), sanorm_jax.load(copy)
    inputs = np.random.default_rng(0).normal(size=(2, *original.input_shape))
    jax.tree.map(
        np.testing.assert_array_equal, original.apply(inputs), loaded.apply(inputs)
    )
    assert loaded.step == original.step == 2
    with pytest.raises(UserError, match=r"--step=1: .* is published with step 2"):
        sanorm_jax.load(copy, step=1)


def test_a_model_is_where_training_starts_from(run, copy, data_dir):
    config = tiny.config(data_dir, update_normalization="batch_norm")
    task = sanorm_jax.load(run).task
    found = init_from.load(pathlib.Path(copy), task)
    expected, _ = init_from.load_variables(task, run)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(UserError, match="is a published model, which is read-only"):
        train.train(config, published.find(copy))


def test_results_of_a_model_go_elsewhere(copy, data_dir):
    model = published.find(copy)
    before = stores.files(model)
    config = workdir_lib.load_config(model).copy_and_resolve_references()
    results = segment.segment(config, model, data_dir=data_dir)
    assert results.parts[:4] == ("experiments", "published", "random", "batch_norm")
    assert list(results.rglob("overlays/*.png"))
    assert stores.files(model) == before


def test_the_card_has_mean_and_deviation_over_seeds(run, data_dir, tmp_path):
    other = _train(
        data_dir, tmp_path / "other", update_normalization="batch_norm", seed=1
    )
    card = publish(run, tmp_path / "a/b", others=[other], **CARD_FIELDS)
    values = []
    for workdir in (run, other):
        line = workdir_lib.read_lines(workdir / "metrics.jsonl")[-1]
        values.append(line["default/fg_ari_masks_refined"])
    measure = card["measures"]["FG-ARI"]
    assert measure["value"] == values[0]
    assert measure["mean"] == pytest.approx(np.mean(values))
    assert measure["std"] == pytest.approx(np.std(values, ddof=1))
    assert card["num_runs"] == 2


def test_what_cannot_be_published_is_refused(run, data_dir, tmp_path):
    (tmp_path / "exists").mkdir()
    with pytest.raises(UserError, match="exists; remove it"):
        publish(run, tmp_path / "exists", **CARD_FIELDS)
    other = _train(data_dir, tmp_path / "other", num_train_steps=1)
    with pytest.raises(UserError, match=r"more than the seed \(.*'weighted_mean' now"):
        publish(run, tmp_path / "new", others=[other], **CARD_FIELDS)
    recorded = json.loads((other / "config.json").read_text())
    recorded["num_train_steps"] = 9
    (other / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="other: is not finished"):
        publish(other, tmp_path / "new", **CARD_FIELDS)
    recorded["num_slots"] = 9
    (other / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match="no evaluation with 9 slots"):
        publish(other, tmp_path / "new", **CARD_FIELDS)
    assert not (tmp_path / "new").exists()


def test_damaged_models_are_named_in_one_line(copy):
    model = published.find(copy)
    with pytest.raises(UserError, match="or use a published model: random/batch_norm"):
        sanorm_jax.load("random/batch_nrom")
    with pytest.raises(UserError, match="not a published model; use one of random/"):
        published.read_card(published.find("random/batch_nrom"))
    stores.flip(model / published.WEIGHTS, -1)
    with pytest.raises(UserError, match=r"is not the file that card\.json describes"):
        sanorm_jax.load(copy)
    (model / published.WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"No such file.*, but card.json describes it"):
        sanorm_jax.load(copy)
    (model / published.CARD).write_text("{}")
    with pytest.raises(UserError, match=r"card.json: is damaged \(fields are missing"):
        sanorm_jax.load(copy)


def test_a_check_finds_whether_the_card_s_measures_are_met(copy, data_dir):
    model = published.find(copy)
    met, text = check.check(model, data_dir)
    assert met and "| FG-ARI  |" in text and " no " not in text
    card = published.read_card(model)
    card["measures"]["ARI"]["value"] += 2 * check.TOLERANCE
    (model / published.CARD).write_text(json.dumps(card))
    met, text = check.check(model, data_dir)
    assert not met
    (line,) = [line for line in text.splitlines() if line.startswith("| ARI ")]
    assert "-0.0200" in line and " no " in line
    with pytest.raises(UserError, match="does not hold the data that"):
        check.check(model, data_dir / "elsewhere")


def test_a_check_renders_the_data_that_it_does_not_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = Options(
        data_dir=tmp_path / "data",
        image_size=16,
        splits={"train": 16, "validation": 8},
        objects={"train": (1, 2), "validation": (2, 4)},
    )
    prepare("shapes", options, num_workers=1)
    changes = {"dataset": "shapes", "evaluation_max_objects": 3}
    run = _train(options.data_dir, tmp_path / "run", "object_discovery", **changes)
    publish(run, tmp_path / "shapes/model", **CARD_FIELDS)
    met, text = check.check(tmp_path / "shapes/model", tmp_path / "new")
    assert met and text.count("0.0000") >= 3
    assert Store.open(tmp_path / "new/shapes_validation").splits == {"validation": 8}


@pytest.mark.parametrize("name", published.names())
def test_a_packaged_model_is_what_its_card_says(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = published.weights(published.find(name))
    assert path.stat().st_size <= 2_000_000
    card = published.read_card(path.parent)
    run = sanorm_jax.load(name)
    assert run.step == card["step"] == run.config.num_train_steps
    assert (
        card["license"] and card["commit"] and set("/~").isdisjoint(run.config.data_dir)
    )
    # Configs of studies set fields of the config that they start from.
    if "study" not in card["config"]:
        module = importlib.import_module(card["config"][:-3].replace("/", "."))
        config = module.get_config()
        config.seed = card["seed"]
        workdir_lib.check_config(path.parent, config)


def test_the_page_has_the_table_of_the_models():
    page = commands.ROOT / "docs/models.md"
    assert table.models() in page.read_text()
    done = commands.run("sanorm_jax", "models")
    assert done.stdout == table.models()


def test_verbs_know_models_by_name(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "photos/a.png")
    done = commands.run(
        "sanorm_jax",
        "prepare",
        "--dataset=images",
        f"--source={tmp_path / 'photos'}",
        f"--data_dir={tmp_path}",
        "--like=tabletop/batch_norm",
    )
    assert done.returncode == 0, done.stderr
    assert Store.open(tmp_path / "images").settings["image_size"] == 128
    for verb in (("check", "tabletop/bach"), ("segment", "--workdir=tabletop/bach")):
        done = commands.run("sanorm_jax", *verb)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "tabletop/bach" in line and "tabletop/batch_norm" in line
