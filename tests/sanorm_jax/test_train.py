import ast
import json
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from sanorm_jax import evaluate, train
from sanorm_jax.core.errors import UserError
from sanorm_jax.report import run_report, status
from sanorm_jax.run.distribution import preemption
from sanorm_jax.run.folder import workdir, writers
from tests import tiny

_JSON_LINES = (workdir.STARTS_FILE, writers.METRICS_FILE)


def _metrics(path):
    """Return the logged lines without wall-clock measurements."""
    lines = workdir.read_lines(path / writers.METRICS_FILE)
    return [
        {k: v for k, v in line.items() if not k.startswith("time/")} for line in lines
    ]


def _state(path):
    """Return the step and the leaves of the newest checkpoint."""
    steps = [int(p.name) for p in (path / "checkpoints").iterdir() if p.name.isdigit()]
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(path / "checkpoints" / str(max(steps)) / "state")
    return max(steps), [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def _assert_equal(left, right):
    assert _metrics(left) == _metrics(right)
    (left_step, left_leaves), (right_step, right_leaves) = _state(left), _state(right)
    assert left_step == right_step
    assert len(left_leaves) == len(right_leaves) > 10
    for a, b in zip(left_leaves, right_leaves, strict=True):
        np.testing.assert_array_equal(a, b)


class _StopsAt(preemption.Preemption):
    """Receives a real SIGTERM during the given calls."""

    def __init__(self, calls):
        super().__init__(0)
        self._calls = calls
        self._count = 0

    def requested(self):
        self._count += 1
        if self._count in self._calls:
            signal.raise_signal(signal.SIGTERM)
        return super().requested()


# Calls of each start that receive a signal.
_STOPS = {
    # After step 1; in the evaluation after step 4; after step 5.
    "dinosaur": ({1}, {4}, {2}),
    # The loop is the same, and the state differs: in the evaluation after step 4.
    "object_discovery": ({5},),
    "property_prediction": ({5},),
}


@pytest.mark.parametrize("task", _STOPS)
def test_resumed_run_equals_an_uninterrupted_one(task, data_dir, tmp_path, monkeypatch):
    config = tiny.config(data_dir, task, update_normalization="batch_norm")
    assert train.train(config, tmp_path / "whole") == 0
    for calls in _STOPS[task]:
        monkeypatch.setattr(
            train.preemption, "Preemption", lambda limit, c=calls: _StopsAt(c)
        )
        assert train.train(config, tmp_path / "stopped") == preemption.EXIT_CODE
    monkeypatch.undo()
    assert train.train(config, tmp_path / "stopped") == 0
    _assert_equal(tmp_path / "whole", tmp_path / "stopped")
    starts = workdir.read_lines(tmp_path / "stopped" / "starts.jsonl")
    assert len(starts) == len(_STOPS[task]) + 1


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    assert train.train(tiny.config(data_dir), path) == 0
    return path


def test_each_step_is_logged_once(finished):
    lines = [line for line in _metrics(finished) if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all(np.isfinite(line["loss"]) and line["loss"] > 0 for line in lines)
    assert lines[0]["learning_rate"] > 0
    evaluated = [line["step"] for line in _metrics(finished) if "loss" not in line]
    assert evaluated == [4, 6]


def test_finished_run_does_nothing(finished, data_dir):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert train.train(tiny.config(data_dir), finished) == 0
    after = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert before == after


def test_logging_and_evaluation_intervals_do_not_affect_training(
    finished, data_dir, tmp_path
):
    config = tiny.config(
        data_dir, log_every_steps=1, evaluate_every_steps=1, checkpoint_every_steps=1
    )
    assert train.train(config, tmp_path) == 0
    for a, b in zip(_state(finished)[1], _state(tmp_path)[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_steps_continue_a_finished_run(data_dir, tmp_path):
    assert train.train(tiny.config(data_dir, num_train_steps=8), tmp_path / "a") == 0
    assert train.train(tiny.config(data_dir, num_train_steps=4), tmp_path / "b") == 0
    assert train.train(tiny.config(data_dir, num_train_steps=8), tmp_path / "b") == 0
    _assert_equal(tmp_path / "a", tmp_path / "b")


def test_another_config_in_the_folder_is_rejected(finished, data_dir):
    config = tiny.config(data_dir, num_slots=5)
    with pytest.raises(UserError, match="num_slots: 4 recorded, 5 now"):
        train.train(config, finished)


def test_failed_start_does_not_block_the_next(data_dir, tmp_path):
    with pytest.raises(train.UserError, match="selects no example"):
        train.train(tiny.config(data_dir, min_objects=11), tmp_path)
    config = tiny.config(data_dir, num_train_steps=2)
    assert train.train(config, tmp_path) == 0
    assert workdir.load_config(tmp_path).min_objects == config.min_objects


def test_non_finite_loss_saves_the_state_before_it(data_dir, tmp_path):
    config = tiny.config(data_dir, optimizer__learning_rate=1e30, seed=1)
    with pytest.raises(UserError, match="not finite at step") as error:
        train.train(config, tmp_path)
    step, leaves = _state(tmp_path)
    assert f"not finite at step {step + 1};" in str(error.value)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    # The next start fails at the same step.
    with pytest.raises(UserError, match=f"not finite at step {step + 1};"):
        train.train(config, tmp_path)


def test_a_damaged_checkpoint_is_skipped(data_dir, tmp_path, caplog):
    config = tiny.config(data_dir, evaluate_every_steps=2)
    assert train.train(config, tmp_path / "whole") == 0
    assert train.train(config, tmp_path / "damaged") == 0
    files = sorted((tmp_path / "damaged/checkpoints/6/state").rglob("*"))
    largest = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    largest.write_bytes(content)
    longer = tiny.config(data_dir, evaluate_every_steps=2, num_train_steps=8)
    assert train.train(longer, tmp_path / "whole") == 0
    assert train.train(longer, tmp_path / "damaged") == 0
    assert "checkpoint of step 6 is damaged" in caplog.text
    _assert_equal(tmp_path / "whole", tmp_path / "damaged")


def test_other_dtype_than_in_the_run_is_rejected(finished, data_dir):
    with (
        jax.enable_x64(True),
        pytest.raises(UserError, match=r"float32 instead of float64.*JAX_ENABLE_X64"),
    ):
        train.train(tiny.config(data_dir, num_train_steps=8), finished)


def test_run_initialized_from_another_keeps_its_own_dtypes(
    finished, data_dir, tmp_path
):
    with jax.enable_x64(True):
        for steps in (2, 4):
            config = tiny.config(
                data_dir, init_from=str(finished), num_train_steps=steps
            )
            assert train.train(config, tmp_path) == 0


def test_run_without_readable_checkpoints_is_not_deleted(finished, data_dir, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for metadata in tmp_path.glob("run/checkpoints/*/meta/metadata"):
        metadata.write_text("no JSON")
    with pytest.raises(UserError, match="no checkpoint can be read") as error:
        train.train(tiny.config(data_dir, num_train_steps=8), tmp_path / "run")
    assert "restore them from a backup" in str(error.value)


# Stores and downloads can be written again, runs cannot.
_MAY_REMOVE = {"data", "feature_extraction"}


def test_no_message_advises_to_delete_a_run():
    root = pathlib.Path(__file__).parents[2]
    for path in root.glob("sanorm_jax/**/*.py"):
        if _MAY_REMOVE.intersection(path.relative_to(root).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            assert not re.search(r"(?i)\b(remove|delete|erase) the", str(text)), path


@pytest.mark.parametrize("name", ["starts.jsonl", "metrics.jsonl"])
def test_lines_damaged_by_a_power_failure_are_skipped(
    name, finished, data_dir, tmp_path, caplog
):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    evaluate.evaluate(tiny.config(data_dir), path)
    expected = {file: workdir.read_lines(path / file) for file in _JSON_LINES}
    whole = (path / name).read_bytes()
    damage = [bytes(50) + b"\n", b"\xff\n", b"0\n", b'{"step": 2\n', b"\n"]
    (path / name).write_bytes(b"".join([*damage, whole, bytes(50)]))
    assert {file: workdir.read_lines(path / file) for file in _JSON_LINES} == expected
    for number in range(1, len(damage) + 1):
        assert f"{path / name}: line {number} is damaged; skipped" in caplog.text
    status.show(path)
    assert run_report.write(path).exists()
    assert train.train(tiny.config(data_dir, num_train_steps=8), path) == 0
    caplog.clear()
    # The start is recorded, and the damage is gone.
    assert len(workdir.read_lines(path / "starts.jsonl")) == 2
    steps = [line["step"] for line in workdir.read_lines(path / "metrics.jsonl")]
    assert steps == [2, 4, 4, 6, 6, 8, 8]
    assert "is damaged" not in caplog.text


def test_a_changed_model_names_the_parameters(finished, data_dir, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    config = tiny.config(data_dir, model__slot_dim=16, num_train_steps=8)
    recorded = json.dumps(workdir.config_to_dict(config))
    (tmp_path / "run/config.json").write_text(recorded)
    with pytest.raises(UserError, match=r"is of another model \(.*params/decoder"):
        train.train(config, tmp_path / "run")


def test_other_data_under_the_same_name_is_noticed(data_dir, tmp_path):
    config = tiny.config(data_dir, num_train_steps=2)
    assert train.train(config, tmp_path / "run") == 0
    splits = {"train": 41, "validation": 10}
    tiny.stores.random_dataset(tmp_path / "other", splits)
    config = tiny.config(tmp_path / "other", num_train_steps=4)
    with pytest.raises(UserError, match="the data differs"):
        train.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slots": 0}, "num_slots=0"),
        ({"num_iterations": -1}, "num_iterations=-1"),
        ({"update_normalization": "meen"}, "meen"),
        ({"batch_size": 0}, "config.batch_size=0"),
        ({"dtype": "float16"}, "config.dtype='float16'"),
        ({"parallelism": "magic"}, "config.parallelism='magic'"),
        ({"optimizer__name": "adamm"}, "config.optimizer.name='adamm'"),
        ({"num_train_steps": 0}, "config.num_train_steps=0"),
        ({"time_limit_h": -1.0}, "config.time_limit_h=-1.0"),
        ({"task": "dinosaurs"}, "config.task='dinosaurs'"),
        ({"init_from": "/nowhere"}, "config.init_from=/nowhere"),
        ({"evaluations": {"x": {"num_slots": 5}}}, "evaluations.x: has no num_iter"),
        ({"optimizer__cosine_steps": 2}, "config.optimizer.cosine_steps=2"),
        ({"matmul_precision": "tf32"}, "config.matmul_precision='tf32'"),
        # Used after the first step, but checked before it.
        (
            {"evaluation_split": "test"},
            "config.evaluation_split=test: not a split of the data",
        ),
        ({"evaluation_min_objects": 99}, "min_objects=99: selects no example"),
        ({"evaluation_resolution": 0}, "config.evaluation_resolution=0"),
        ({"evaluation_seed": -1}, "config.evaluation_seed=-1"),
        ({"num_figure_examples": -1}, "config.num_figure_examples=-1"),
    ],
)
def test_bad_options_are_one_line_errors(changes, message, data_dir, tmp_path):
    config = tiny.config(data_dir, **changes)
    with pytest.raises(UserError) as error:
        train.train(config, tmp_path / "run")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    # Initial parameters are read once the folder is locked.
    assert (tmp_path / "run").exists() == ("init_from" in changes)


def test_checkpoints_of_an_unknown_config_are_not_resumed(data_dir, tmp_path):
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has checkpoints but no config\.json"):
        train.train(tiny.config(data_dir), tmp_path)


def test_properties_are_predicted_from_features_as_from_images(data_dir, tmp_path):
    config = tiny.config(data_dir, "property_prediction", encoder="random")
    assert train.train(config, tmp_path) == 0
    lines = _metrics(tmp_path)
    assert {"default/ap_inf", "default/fg_ari_attention"} <= lines[-1].keys()
    state = ocp.StandardCheckpointer().restore(tmp_path / "checkpoints/6/state")
    # From 12 features to the number of channels that convolutions of images have.
    assert state["params"]["encoder"]["kernel"].shape == (12, 8)


def test_an_incomplete_store_is_rejected(tmp_path):
    data_dir = tiny.data_dir(tmp_path / "data")
    for shard in (1, 3):
        (data_dir / f"random-random/train/features/c/{shard}/0/0").unlink()
    with pytest.raises(UserError) as caught:
        train.train(tiny.config(data_dir), tmp_path / "run")
    assert "incomplete (missing shards: train 2 of 5);" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
