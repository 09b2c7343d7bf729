"""Several studies on one page: what is done is shown, the rest is named."""

import subprocess
import sys

import ml_collections
import pytest

from sanorm_jax.core.errors import UserError
from sanorm_jax.study import jobs, paper, session
from tests import tiny
from tests.sanorm_jax.study.conftest import study_config

_CONFIG = """
import pathlib
from tests.sanorm_jax.study import test_paper_page

def get_config():
    return test_paper_page.paper_config(pathlib.Path({data_dir!r})).unlock()
"""


def paper_config(data_dir) -> ml_collections.ConfigDict:
    """Return a paper of two tiny studies, of segmentations and of properties."""
    slots = study_config(data_dir).unlock()
    slots.update({"title": "Slots find objects", "question": "Do they?"})
    base = tiny.config(data_dir, "property_prediction", num_train_steps=2)
    properties = study_config(data_dir).unlock()
    properties.base = base.to_dict()
    properties.update({"title": "Slots name objects", "question": "What are they?"})
    properties.measures = ("ap_inf", "ap_1")
    studies = {"dinosaur": slots, "property_prediction": properties}
    return ml_collections.ConfigDict({"title": "Tiny paper", "studies": studies}).lock()


@pytest.fixture(scope="module")
def half_done(data_dir, tmp_path_factory):
    """Return a paper: no run of its first study is done, one of two of its second."""
    workdir = tmp_path_factory.mktemp("paper")
    config = paper_config(data_dir)
    created = {
        name: jobs.create(study, workdir / name)
        for name, study in config.studies.items()
    }
    with pytest.raises(UserError, match="no run is done"):
        paper.write(config, created, workdir)
    study = config.studies.property_prediction
    session.record(study, workdir / "property_prediction")
    assert jobs.run(created["property_prediction"][0], study) == 0
    return config, created, workdir


def test_page_shows_finished_jobs_and_counts_the_others(half_done):
    config, created, workdir = half_done
    text = paper.write(config, created, workdir).read_text()
    assert "Slots find objects" in text and "No run is done yet" in text
    assert "What are they?" in text
    assert "0 of 2" in text and "1 of 2" in text
    assert "AP (distance 1)" in text
    # True and predicted objects as glyphs, the curve, AP over slots.
    drawn = {path.name for path in (workdir / paper.FIGURES).glob("*.png")}
    assert "property_prediction_few_random_samples_5.png" in drawn
    assert len(drawn) >= 2


def test_command_shows_earlier_results(half_done, data_dir, tmp_path):
    _, _, workdir = half_done
    path = tmp_path / "paper_tiny.py"
    path.write_text(_CONFIG.format(data_dir=str(data_dir)))
    command = [
        sys.executable,
        "-m",
        "sanorm_jax.paper",
        f"--config={path}",
        "--report",
    ]

    def run(folder):
        arguments = [*command, f"--workdir={folder}"]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    result = run(workdir)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("report.html")
    nothing = run(tmp_path / "nothing")
    assert nothing.returncode == 2
    assert "no run is done" in nothing.stderr.splitlines()[-1]


@pytest.mark.long
def test_command_runs_the_remaining_jobs(half_done, data_dir, tmp_path):
    _, created, workdir = half_done
    before = created["property_prediction"][0].workdir / "metrics.jsonl"
    age = before.stat().st_mtime_ns
    path = tmp_path / "paper_tiny.py"
    path.write_text(_CONFIG.format(data_dir=str(data_dir)))
    subprocess.run(
        [sys.executable, "-m", "sanorm_jax.paper", f"--config={path}",
         f"--workdir={workdir}"],
        check=True,
    )  # fmt: skip
    text = (workdir / paper.FILE).read_text()
    assert text.count("2 of 2") == 2
    assert (workdir / "dinosaur" / "report" / "report.html").exists()
    assert before.stat().st_mtime_ns == age
