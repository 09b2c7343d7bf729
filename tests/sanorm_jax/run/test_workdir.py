"""Who may write to the folder of a run."""

import pathlib

import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.report import status
from sanorm_jax.run.folder import workdir
from tests import tiny


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_run_begins_with_a_warning(
    tmp_path, caplog, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path("run")
    workdir.claim(path, tiny.config(tmp_path)).close()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "run: the file system does not support locks" in record.getMessage()
    assert workdir.is_locked(path) is None
    status.show(path)
    assert "perhaps running" in capsys.readouterr().out


@pytest.mark.usefixtures("nfs")
def test_a_run_on_nfs_is_one_process(tmp_path):
    config = tiny.config(tmp_path)
    assert not workdir.is_locked(tmp_path)
    with workdir.claim(tmp_path, config):
        assert workdir.is_locked(tmp_path)
        with pytest.raises(UserError, match="in use by another training process"):
            workdir.claim(tmp_path, config)
    assert not workdir.is_locked(tmp_path)
