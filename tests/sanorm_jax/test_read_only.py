"""Runs that are read-only, and disks without room: one line, before the work."""

import contextlib
import os
import subprocess

import pytest

from sanorm_jax import evaluate, train
from tests import commands, tiny
from tests.faults import harm


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    config = tiny.config(data_dir, num_train_steps=2, evaluations={})
    assert train.train(config, path) == 0
    evaluate.evaluate(config, path, num_slots=[4])
    return path


def _error(done) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    return line


@contextlib.contextmanager
def _read_only(folder, place):
    """Show a folder in another place where nobody may write, not even root."""
    place.mkdir()
    subprocess.run(["mount", "--bind", folder, place], check=True)
    try:
        options = "remount,bind,ro"
        subprocess.run(["mount", "-o", options, place], check=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("verb", ["evaluate", "segment", "report"])
def test_read_only_run_is_rejected_before_work_starts(verb, run, tmp_path):
    with _read_only(run, tmp_path / "run") as place:
        done = commands.run("sanorm_jax", verb, f"--workdir={place}")
    line = _error(done)
    assert str(place) in line and "not writable (Read-only file system)" in line
    # Nothing was done before.
    assert done.stderr.splitlines() == [line]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("options", [(), ("--report",)], ids=["jobs", "report"])
@pytest.mark.parametrize("verb", ["study", "paper"])
def test_read_only_study_is_rejected_before_the_work(verb, options, tmp_path):
    (tmp_path / "kept").mkdir()
    config = {"study": "study_shapes", "paper": "paper"}[verb]
    with _read_only(tmp_path / "kept", tmp_path / "studies") as place:
        flags = f"--config=configs/{config}.py", f"--workdir={place}"
        done = commands.run("sanorm_jax", verb, *flags, *options)
    line = _error(done)
    assert str(place) in line and "not writable (Read-only file system)" in line
    assert done.stderr.splitlines()[-1] == line
    assert "runs" not in done.stderr and not list((tmp_path / "kept").iterdir())


def test_file_in_place_of_a_folder_is_reported(run, tmp_path):
    (tmp_path / "run").mkdir()
    for path in run.iterdir():
        if path.name != "evaluations":
            (tmp_path / "run" / path.name).symlink_to(path)
    (tmp_path / "run/evaluations").write_text("in the way")
    workdir = f"--workdir={tmp_path / 'run'}"
    line = _error(commands.run("sanorm_jax", "evaluate", workdir))
    assert "run/evaluations: not writable (Not a directory)" in line


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_full_disk_is_a_one_line_error(run, tmp_path):
    with harm.small_disk(tmp_path / "disk", "1M") as disk:
        (disk / "run").mkdir()
        for path in run.iterdir():
            if path.name != "evaluations":
                (disk / "run" / path.name).symlink_to(path)
        harm.fill(disk / "filler")
        flags = ("evaluate", f"--workdir={disk / 'run'}")
        line = _error(commands.run("sanorm_jax", *flags, TMPDIR=str(tmp_path)))
    assert f"{disk / 'run'}" in line and "No space left on device" in line
