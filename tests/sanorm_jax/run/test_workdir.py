"""Who may write to the folder of a run."""

import errno
import fcntl
import json
import os
import pathlib

import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.report import status
from sanorm_jax.run.folder import workdir
from tests import tiny


@pytest.mark.usefixtures("no_locks")
def test_run_without_lock_support_starts_with_a_warning(
    tmp_path, caplog, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path("run")
    with workdir.claim(path, tiny.config(tmp_path)):
        pass
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "run: the file system does not support locks" in record.getMessage()
    assert workdir.is_locked(path) is None
    status.show(path)
    assert "perhaps running" in capsys.readouterr().out


@pytest.mark.parametrize("file_system", ["local", "nfs"])
def test_a_run_is_one_process(file_system, tmp_path, request):
    if file_system == "nfs":
        request.getfixturevalue("nfs")
    config = tiny.config(tmp_path)
    assert not workdir.is_locked(tmp_path)
    with workdir.claim(tmp_path, config):
        assert workdir.is_locked(tmp_path)
        with (
            pytest.raises(UserError, match="in use by another training process"),
            workdir.claim(tmp_path, config),
        ):
            pass
    assert not workdir.is_locked(tmp_path)


@pytest.mark.parametrize("code", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_held_lock_is_not_reported_as_unsupported(code, tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(UserError, match="in use by another training process"),
        workdir.claim(tmp_path, tiny.config(tmp_path)),
    ):
        pass
    assert workdir.is_locked(tmp_path)


def test_a_run_from_before_a_field_was_added_resumes_with_its_default(tmp_path):
    config = tiny.config(tmp_path)
    with workdir.claim(tmp_path, config):
        pass
    (tmp_path / workdir.CHECKPOINTS / "2").mkdir(parents=True)
    recorded = json.loads((tmp_path / workdir.CONFIG_FILE).read_text())
    del recorded["slot_share_penalty"], recorded["model"]["attention"]
    (tmp_path / workdir.CONFIG_FILE).write_text(json.dumps(recorded))
    assert workdir.load_config(tmp_path).slot_share_penalty == ((0, 0.0),)
    workdir.check_config(tmp_path, config)
    changed = tiny.config(tmp_path, model__attention="sinkhorn")
    with pytest.raises(UserError, match="attention: 'softmax' recorded, 'sinkhorn'"):
        workdir.check_config(tmp_path, changed)
