"""The choice of each variant's learning rate, by training loss alone."""

import json

import pytest

from sanorm_jax.run.folder import writers
from sanorm_jax.study import __main__ as command
from sanorm_jax.study import jobs as jobs_lib
from sanorm_jax.study import learning_rates
from tests.sanorm_jax.study.conftest import study_config


@pytest.fixture
def jobs(data_dir, tmp_path):
    config = study_config(data_dir, seeds=(0, 1), learning_rates=(0.001, 0.003))
    return jobs_lib.create(config, tmp_path)


def _train(monkeypatch, losses):
    """Make jobs count as trained whose training loss is given by name."""

    def is_trained(job):
        return job.name in losses

    monkeypatch.setattr(jobs_lib, "is_trained", is_trained)
    monkeypatch.setattr(learning_rates, "training_loss", lambda job: losses[job.name])


def _name(normalization, seed, rate):
    return f"few_{normalization}_seed_{seed}_rate_{rate:g}"


def test_jobs_are_all_rates_of_all_seeds(jobs):
    assert len(jobs) == 8
    assert [job.config.optimizer.learning_rate for job in jobs[:2]] == [0.001, 0.003]
    assert jobs[0].name == _name("weighted_mean", 0, 0.001)
    trials = learning_rates.trial_jobs(jobs)
    assert {job.seed for job in trials} == {0} and len(trials) == 4


def test_lowest_training_loss_of_the_first_seed_selects_the_rate(jobs, monkeypatch):
    losses = {
        _name("weighted_mean", 0, 0.001): 0.5,
        _name("weighted_mean", 0, 0.003): 0.4,
        _name("weighted_sum", 0, 0.001): 0.3,
    }
    _train(monkeypatch, losses)
    # Of the second variant one rate is not trained yet: it has no choice.
    taken = {_name("weighted_mean", seed, 0.003) for seed in (0, 1)}
    assert {job.name for job in learning_rates.chosen(jobs)} == taken
    out = {_name("weighted_mean", seed, 0.001) for seed in (0, 1)}
    assert learning_rates.ruled_out(jobs) == out
    losses[_name("weighted_sum", 0, 0.003)] = 0.31
    # What the other seed does has no say.
    losses[_name("weighted_mean", 1, 0.001)] = 0.1
    _train(monkeypatch, losses)
    taken |= {_name("weighted_sum", seed, 0.001) for seed in (0, 1)}
    assert {job.name for job in learning_rates.chosen(jobs)} == taken


def test_without_a_grid_all_jobs_are_compared(data_dir, tmp_path):
    jobs = jobs_lib.create(study_config(data_dir, seeds=(0, 1)), tmp_path)
    assert learning_rates.chosen(jobs) == jobs
    assert learning_rates.ruled_out(jobs) == set()


def test_loss_is_averaged_over_the_last_quarter(jobs):
    job = jobs[0]
    job.workdir.mkdir(parents=True)
    with job.config.unlocked():
        job.config.num_train_steps = 8
    lines = [{"step": step, "loss": float(step)} for step in range(1, 9)]
    lines.append({"step": 8, "default/mse": 100.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (job.workdir / writers.METRICS_FILE).write_text(text)
    assert learning_rates.training_loss(job) == 7.5


def test_array_task_skips_rejected_learning_rates(jobs, monkeypatch, tmp_path):
    losses = {_name("weighted_mean", 0, 0.001): 0.5}
    losses[_name("weighted_mean", 0, 0.003)] = 0.4
    _train(monkeypatch, losses)
    done = []
    monkeypatch.setattr(
        jobs_lib, "run", lambda job, study, evaluate: done.append(job.name) or 0
    )
    for number in range(len(jobs)):
        monkeypatch.setattr(command, "_JOB", type("Flag", (), {"value": number}))
        monkeypatch.setattr(command, "_END", type("Flag", (), {"value": False}))
        monkeypatch.setattr(command, "_TRIAL", type("Flag", (), {"value": False}))
        assert command._run_one(None, jobs) == 0
    assert set(done) == {job.name for job in jobs} - learning_rates.ruled_out(jobs)
    assert _name("weighted_sum", 1, 0.001) in done
    assert _name("weighted_mean", 1, 0.001) not in done
