import json
import sys

import pytest

from sanorm_jax import train
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.folder import wandb_writer, workdir
from tests import tiny

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No network, and as much time to start as a busy machine takes."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1200")
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "1200")


def test_scalars_and_figures_are_written_offline(data_dir, tmp_path, monkeypatch):
    sent = []
    log = wandb.Run.log
    monkeypatch.setattr(
        wandb.Run, "log", lambda self, row, *a: (sent.append(row), log(self, row, *a))
    )
    config = tiny.config(data_dir, wandb="slots", num_figure_examples=2)
    assert train.train(config, tmp_path) == 0

    recorded = workdir.read_lines(tmp_path / "metrics.jsonl")
    scalars = [row for row in sent if "default/segmentation" not in row]
    assert [row["step"] for row in scalars] == [row["step"] for row in recorded]
    for row, line in zip(scalars, recorded, strict=True):
        assert row == pytest.approx(line)
    images = [row["default/segmentation"] for row in sent if row not in scalars]
    assert len(images) == 2
    assert isinstance(images[0][0], wandb.Image)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    run_id = json.loads((tmp_path / wandb_writer.ID_FILE).read_text())["id"]
    assert run_id in file.name
    assert b"default/fg_ari_masks_refined" in file.read_bytes()


def test_a_restart_resumes_the_run(data_dir, tmp_path, monkeypatch):
    started = []
    init = wandb.init
    monkeypatch.setattr(
        wandb, "init", lambda **kwargs: (started.append(kwargs), init(**kwargs))[1]
    )
    for steps in (2, 4):
        config = tiny.config(data_dir, wandb="slots", num_train_steps=steps)
        assert train.train(config, tmp_path) == 0
    one, two = started
    assert one["id"] == two["id"]
    assert one["resume"] == "allow"
    assert one["config"]["num_slots"] == 4


def test_failed_uploads_do_not_stop_the_run(data_dir, tmp_path, monkeypatch):

    def fail(self, row):
        raise OSError("no network")

    monkeypatch.setattr(wandb.Run, "log", fail)
    config = tiny.config(data_dir, wandb="slots", num_train_steps=2)
    assert train.train(config, tmp_path) == 0
    assert workdir.read_lines(tmp_path / "metrics.jsonl")


def test_without_wandb_the_option_is_rejected_at_once(data_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny.config(data_dir, wandb="slots")
    with pytest.raises(UserError, match="wandb is not installed"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_failed_wandb_start_is_a_one_line_error(data_dir, tmp_path, monkeypatch):
    def fail(**kwargs):
        raise RuntimeError("api_key not configured\nmore")

    monkeypatch.setattr(wandb, "init", fail)
    config = tiny.config(data_dir, wandb="slots")
    with pytest.raises(UserError, match="WANDB_MODE=offline") as error:
        train.train(config, tmp_path)
    assert "\n" not in str(error.value)
