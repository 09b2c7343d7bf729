"""A run is compared with the recorded course of its config."""

import json
import math
import pathlib
import random
import shutil

import pytest

from sanorm_jax.configs import (
    shapes,
    study_shapes,
    study_slot_count,
    study_tabletop,
    tabletop,
)
from sanorm_jax.core import files, run_data
from sanorm_jax.core.errors import UserError
from sanorm_jax.report import bands, run_report, status
from sanorm_jax.run.folder import workdir, writers
from sanorm_jax.study import jobs
from tests import tiny

SCORE = "default/fg_ari_masks_refined"


def loss_at(step: int) -> float:
    return 1 + math.exp(-step / 50)


def write_run(
    path, *, seed=0, steps=200, spread=0.04, change=lambda step, line: {}, **fields
):
    """Write what a run of 200 steps logs, its values differing by seed and step."""
    path.mkdir(parents=True)
    config = tiny.config(
        path,
        seed=seed,
        num_train_steps=200,
        log_every_steps=2,
        evaluate_every_steps=50,
        **fields,
    )
    text = files.to_json(workdir.config_to_dict(config))
    (path / workdir.CONFIG_FILE).write_text(text)
    draw = random.Random(seed)

    def vary(value):
        return value * (1 + draw.uniform(-spread, spread))

    lines = []
    for step in range(2, steps + 1, 2):
        line = {"step": step, "loss": vary(loss_at(step)), "grad_norm": vary(0.5)}
        line["time/wall_s"] = step / 10
        lines.append(line | change(step, line))
        if step % 50 == 0:
            line = {"step": step, SCORE: vary(0.5), "other/fg_ari_masks_refined": 0.1}
            lines.append(line | change(step, line))
    workdir.write_lines(path / writers.METRICS_FILE, lines)
    return path


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """The band of three runs, as the only one there is."""
    monkeypatch.setattr(bands, "FOLDER", tmp_path / "bands")
    bands.FOLDER.mkdir()
    for seed in range(3):
        write_run(tmp_path / "seeds" / f"seed_{seed}", seed=seed)
    bands.record(tmp_path / "seeds", bands.FOLDER / "mine.json")
    return tmp_path


def compare(recorded, **run) -> str:
    return bands.compare(write_run(recorded / "run", **{"seed": 3} | run)).text


def test_a_run_like_the_others_is_within_the_band(recorded, capsys):
    text = "compared with 3 runs of mine: loss, gradient norm, FG-ARI within the band"
    assert compare(recorded) == text
    status.show(recorded / "run")
    assert capsys.readouterr().out.splitlines()[-1] == text
    # Fields that do not change the course, and further evaluations, do not matter.
    evaluations = {"default": {"num_slots": 5, "num_iterations": 2}}
    evaluations["other"] = {"num_slots": 7, "num_iterations": 2}
    run = recorded / "free"
    write_run(run, seed=4, evaluations=evaluations, num_checkpoints=1)
    assert bands.compare(run).text == text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # The values of steps 102 to 110 are the window that ends at step 110.
        (
            lambda step, line: (
                {"loss": 2 * line["loss"]} if "loss" in line and step > 100 else {}
            ),
            "loss above the band since step 110; gradient norm, FG-ARI within the band",
        ),
        (
            lambda step, line: {SCORE: 0.3} if SCORE in line and step >= 150 else {},
            "within the band; FG-ARI below the band since step 150",
        ),
        (
            lambda step, line: {SCORE: 0.3} if SCORE in line and step <= 100 else {},
            "gradient norm within the band; FG-ARI within the band since step 150",
        ),
        # The last line of an unfinished window, and a spike, do not count.
        (
            lambda step, line: {"grad_norm": 99} if step in (126, 144) else {},
            "loss, gradient norm, FG-ARI within the band",
        ),
        (
            lambda step, line: {"grad_norm": None} if step >= 196 else {},
            "loss, FG-ARI within the band; gradient norm not finite since step 200",
        ),
        (
            lambda step, line: {SCORE: None} if SCORE in line and step == 200 else {},
            "FG-ARI not finite since step 200",
        ),
    ],
)
def test_what_leaves_the_band_is_named_with_its_step(recorded, change, expected):
    text = compare(recorded, change=change)
    assert expected in text
    outside = any(word in expected for word in ("above", "below", "not finite"))
    assert text.endswith("see docs/slot_count.md#why-do-my-slots-not-bind") == outside


def test_a_shorter_run_is_compared_as_far_as_it_is(recorded):
    def change(step, line):
        return {"loss": 0.1} if "loss" in line and step > 20 else {}

    text = compare(recorded, steps=38, change=change)
    assert "loss below the band since step 30; gradient norm within" in text
    assert "FG-ARI not compared yet" in text


def test_a_run_that_has_just_begun_is_not_compared(recorded):
    assert "loss, gradient norm, FG-ARI not compared yet" in compare(recorded, steps=8)


def test_without_a_band_the_nearest_one_is_named(recorded, monkeypatch):
    text = compare(recorded, optimizer__learning_rate=0.5)
    assert text == (
        "no band is recorded for this config; the nearest is of mine "
        "(optimizer.learning_rate: 0.0004 recorded, 0.5 now)"
    )
    far = write_run(recorded / "far", num_slots=9, batch_size=4, dataset="x", dtype="y")
    assert bands.compare(far).text == "no band is recorded for this config"
    monkeypatch.setattr(bands, "FOLDER", recorded / "none")
    assert bands.compare(far).text == "no band is recorded for this config"


def test_a_band_is_of_the_same_features(recorded):
    for components, run in ((48, "run"), (24, "other")):
        run = recorded / run
        write_run(run, seed=3)
        features = {"input_size": 224, "projection": {"components": components}}
        run_data.write(run, 128, features)
    content = json.loads((bands.FOLDER / "mine.json").read_text())
    content["settings"] |= bands._settings(recorded / "run")
    (bands.FOLDER / "mine.json").write_text(json.dumps(content))
    assert "within the band" in bands.compare(recorded / "run").text
    text = bands.compare(recorded / "other").text
    assert "(data.components: 48 recorded, 24 now)" in text


def test_the_report_draws_the_band_behind_the_curve(recorded):
    run = write_run(recorded / "run", seed=3)
    _, training, scores = run_report._training(run, workdir.load_config(run))
    assert "Gray: the band." in training.caption
    assert "Gray: the band of the masks." in scores.caption
    limits = bands.compare(run).limits
    drawn = dict(zip(("loss", "grad_norm"), training.figure.axes, strict=True))
    drawn["fg_ari_masks_refined"] = scores.figure.axes[0]
    for measure, axis in drawn.items():
        (_, bars) = axis.collections
        ends = {int(bar[0, 0]): tuple(bar[:, 1]) for bar in bars.get_segments()}
        assert ends == limits[measure]
        (line,) = axis.lines
        assert {*line.get_xdata()} == limits[measure].keys()
    # The values of other evaluations are not mixed in.
    assert max(scores.figure.axes[0].lines[0].get_ydata()) > 0.4


def test_fields_that_recorded_runs_lack_have_their_defaults(recorded):
    path = bands.FOLDER / "mine.json"
    content = json.loads(path.read_text())
    del content["settings"]["model.attention"]
    path.write_text(json.dumps(content))
    assert "within the band" in compare(recorded)


def test_a_band_is_recorded_for_each_config_of_a_folder(recorded):
    for seed in range(4):
        for name in ("batch_norm", "layer_norm"):
            run = recorded / "study" / "runs" / f"{name}_{seed}"
            # One run is unfinished.
            steps = 100 if (name, seed) == ("layer_norm", 1) else 200
            write_run(run, seed=seed, steps=steps, update_normalization=name)
    write_run(recorded / "study" / "runs" / "single", update_normalization="none")
    bands.record(recorded / "study", bands.FOLDER / "study.json")
    content = json.loads((bands.FOLDER / "study.json").read_text())
    assert "update_normalization" not in content["settings"]
    assert {
        band["settings"]["update_normalization"]: band["runs"]
        for band in content["bands"]
    } == {"batch_norm": 4, "layer_norm": 3}
    text = bands.compare(recorded / "study/runs/layer_norm_1").text
    assert text.startswith("compared with 3 runs of study: ")
    with pytest.raises(UserError, match="has no config with 3 finished runs"):
        bands.record(recorded / "study/runs/single", bands.FOLDER / "x.json")


def test_a_left_out_seed_is_within_the_band_of_the_others(recorded):
    seeds = sorted((recorded / "seeds").iterdir())
    seeds += [write_run(recorded / "seeds/seed_3", seed=3)]
    for left_out in seeds:
        others = recorded / f"without_{left_out.name}"
        shutil.copytree(recorded / "seeds", others)
        shutil.rmtree(others / left_out.name)
        bands.record(others, bands.FOLDER / "mine.json")
        expected = "of mine: loss, gradient norm, FG-ARI within the band"
        assert bands.compare(left_out).text.endswith(expected)


def test_the_limits_are_widened_by_their_range_and_at_least_by_a_minimum():
    assert bands._widen("loss", 1.0, 1.01) == pytest.approx((1 / 1.1, 1.01 * 1.1))
    assert bands._widen("grad_norm", 1.0, 4.0) == pytest.approx((0.25, 16.0))
    assert bands._widen("ari_masks", 0.5, 0.51) == pytest.approx((0.45, 0.56))
    assert bands._widen("ari_masks", 0.5, 0.7) == pytest.approx((0.3, 0.9))


def test_every_shipped_band_is_of_a_shipped_config():
    configs = {"shapes": [shapes.get_config()], "tabletop": [tabletop.get_config()]}
    for study in (study_shapes, study_tabletop, study_slot_count):
        configs[study.__name__.split(".")[-1]] = [
            job.config
            for job in jobs.create(study.get_config(), pathlib.Path())
            if job.seed == 0 and job.learning_rate in (None, 2.5e-3)
        ]
    recorded = bands._read()
    assert {path.stat().st_size < 50_000 for path in bands.FOLDER.iterdir()} == {True}
    assert {band.name for band in recorded} == configs.keys()
    for name, wanted in configs.items():
        settings = [
            {k: v for k, v in band.settings.items() if not k.startswith("data.")}
            for band in recorded
            if band.name == name
        ]
        assert len(settings) == len(wanted)
        for config in wanted:
            assert bands._fields(config) in settings
    for band in recorded:
        assert band.limits.keys() >= {"loss", "grad_norm", "fg_ari_masks_refined"}
        for limits in band.limits.values():
            assert all(low < high for low, high in limits.values())
