import contextlib
import os
import pathlib
import select
import signal
import subprocess

import numpy as np
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.data import prepare
from sanorm_jax.data.sources.base import Options, Source
from sanorm_jax.data.store import Store, StoreWriter
from tests import commands, stores

FLAGS = ("--dataset=shapes", "--image_size=16", "--num_workers=2")


def _command(data_dir, *flags):
    return commands.command("data.prepare", *FLAGS, f"--data_dir={data_dir}", *flags)


def _run(data_dir, *flags):
    done = commands.run("data.prepare", *FLAGS, f"--data_dir={data_dir}", *flags)
    return done.returncode, done.stderr


def _children(pid):
    return pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _wait_until(condition, process):
    while not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
            raise AssertionError("ended before its time")


def test_killed_command_resumes_and_then_reports_completion(tmp_path):
    splits = "--splits=train:600,validation:5"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            _command(tmp_path, splits), cwd=commands.ROOT, stdout=log, stderr=log
        )
        root = tmp_path / "shapes"
        finished = root / "train/visibility/c"
        _wait_until(lambda: finished.exists() and any(finished.iterdir()), process)
        workers = [os.pidfd_open(int(pid)) for pid in _children(process.pid)]
        assert workers
        process.kill()
        process.wait()
    # No worker outlives what it works for.
    for worker in workers:
        assert select.select([worker], [], [], 300)[0]
        os.close(worker)
    with pytest.raises(UserError, match="incomplete"):
        Store.open(root)
    done = {
        path: content
        for path, content in stores.files(root).items()
        if "c" in path.parts and path.name.isdigit()
    }
    assert done

    code, _ = _run(tmp_path, splits)
    assert code == 0
    after = stores.files(root)
    assert {path: after[path] for path in done} == done
    assert Store.open(root).splits == {"train": 600, "validation": 5}

    code, err = _run(tmp_path, splits)
    assert code == 0
    assert len(err.splitlines()) == 1
    assert "already complete" in err
    assert stores.files(root) == after

    code, err = _run(tmp_path, "--splits=train:600,validation:5", "--seed=1")
    assert code == 2
    assert "seed: 0 recorded, 1 now" in err.splitlines()[-1]
    assert stores.files(root) == after


def test_an_interrupt_keeps_what_is_finished(tmp_path):
    process = subprocess.Popen(
        _command(tmp_path, "--splits=train:3000"),
        cwd=commands.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    finished = tmp_path / "shapes/train/visibility/c"
    _wait_until(lambda: finished.exists() and any(finished.iterdir()), process)
    # As a terminal does: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "run the same command to resume" in err.splitlines()[-1]
    assert "Traceback" not in err
    store = Store.open(tmp_path / "shapes", allow_incomplete=True)
    assert 0 < len(store.available("train")) < 3000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=nothing"], "--dataset=nothing: unknown; choose from shapes"),
        (["--splits=train"], "--splits=train: not name:count"),
        (["--splits=train:0"], "--splits=train:0: not name:count"),
        (["--splits=train:1,train:2"], "train is given twice"),
        (["--num_workers=0"], "--num_workers=0: not positive; choose at least 1"),
        (["--source=here"], "--source: not used by --dataset=shapes"),
        (["--data_dir=/proc"], "/proc/shapes: not writable"),
    ],
)
def test_bad_flags_are_one_line_errors(tmp_path, flags, message):
    code, err = _run(tmp_path, *flags)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def _numbers(**options):
    return Source(
        source={},
        settings={"image_size": 1, "max_objects": 1},
        fields={"value": ((), "int32")},
        splits={"train": 20},
        examples_per_shard=4,
        **options,
    )


def _stream(asked, broken_at=None):
    def examples(split, start):
        asked.append((split, start))
        for i in range(start, 20):
            if i == broken_at:
                return
            yield {"value": np.array(i * 10, np.int32)}

    return _numbers(examples=examples)


def _prepare_numbers(monkeypatch, tmp_path, source):
    monkeypatch.setitem(prepare.sources.SOURCES, "numbers", "numbers")
    module = type("Module", (), {"build": staticmethod(lambda options: source)})
    monkeypatch.setattr(prepare.importlib, "import_module", lambda *name: module)
    return prepare.prepare("numbers", Options(data_dir=tmp_path))


def test_stream_resumes_at_the_first_missing_shard(monkeypatch, tmp_path):
    asked = []
    with pytest.raises(UserError, match="fewer examples than expected"):
        _prepare_numbers(monkeypatch, tmp_path, _stream(asked, broken_at=14))
    store = Store.open(tmp_path / "numbers", allow_incomplete=True)
    np.testing.assert_array_equal(store.available("train"), np.arange(12))
    root = _prepare_numbers(monkeypatch, tmp_path, _stream(asked))
    assert asked == [("train", 0), ("train", 12)]
    expected = np.arange(20) * 10
    np.testing.assert_array_equal(Store.open(root).column("train", "value"), expected)

    # A shard lost from the middle is all that is read again and written.
    store = Store.open(root)
    store.shard_file("train", "value", 2).unlink()
    written = []
    whole = StoreWriter.write_shard

    def write_shard(self, split, shard, columns):
        written.append(shard)
        whole(self, split, shard, columns)

    monkeypatch.setattr(StoreWriter, "write_shard", write_shard)
    _prepare_numbers(monkeypatch, tmp_path, _stream(asked, broken_at=12))
    assert asked[-1] == ("train", 8)
    assert written == [2]
    np.testing.assert_array_equal(Store.open(root).column("train", "value"), expected)


@pytest.mark.parametrize("dataset", prepare.sources.SOURCES)
def test_datasets_reject_options_that_they_do_not_use(dataset, tmp_path):
    options = Options(data_dir=tmp_path, source=tmp_path / "absent", min_objects=0)
    with pytest.raises(UserError) as error:
        prepare.prepare(dataset, options)
    assert dataset in str(error.value) or "absent" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def _die(split, index):
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_is_a_one_line_error(monkeypatch, tmp_path):
    source = _numbers(example=_die)
    with pytest.raises(UserError, match="a worker process was killed"):
        _prepare_numbers(monkeypatch, tmp_path, source)
