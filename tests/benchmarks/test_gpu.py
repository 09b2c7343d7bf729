import json

import pytest

from benchmarks.gpu import parts
from tests import commands


def _run(tmp_path, *options, **environment):
    """Run the command; return the process and the parts in its file."""
    out = tmp_path / "gpu.json"
    flags = "--size=small", f"--out={out}", *options
    done = commands.run("benchmarks.gpu", *flags, **environment)
    found = json.loads(out.read_text())["parts"] if out.exists() else {}
    return done, found


def test_parts_measure_on_a_cpu(tmp_path):
    names = "card,parity_highest,reading,scores"
    done, found = _run(tmp_path, f"--parts={names}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["card"]["result"]["platform"] == "cpu"
    assert found["parity_highest"]["result"]["comparisons"] > 0
    assert found["parity_highest"]["result"]["past_tolerance"] == 0
    assert found["scores"]["result"]["largest_error"] < 1e-6
    assert all(s > 0 for s in found["reading"]["result"]["seconds"].values())
    assert "| highest" in done.stdout


def test_failed_part_does_not_affect_others(tmp_path):
    broken = tmp_path / "broken/sklearn"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('broken on purpose')")
    path = str(broken.parent)
    done, found = _run(tmp_path, "--parts=scores,card", PYTHONPATH=path)
    assert done.returncode == 1
    assert "broken on purpose" in found["scores"]["error"]
    assert found["card"]["result"]["bytes_per_s"] > 0
    assert "broken on purpose" in done.stdout


def test_parts_without_time_left_are_listed(tmp_path):
    done, found = _run(tmp_path, "--parts=card,scores", "--minutes=0")
    assert done.returncode == 1
    assert not found
    assert done.stdout.count("no time left, see --minutes") == 2


def test_unknown_parts_are_rejected(tmp_path):
    done, _ = _run(tmp_path, "--parts=card,matchign")
    assert done.returncode != 0
    assert "--parts: no matchign; choose from" in done.stderr + done.stdout


def test_both_matching_methods_agree():
    found = parts.matching(parts.SIZES["small"])
    assert found["costs_agree"]
    assert found["share"] < 1


@pytest.mark.long
def test_step_is_timed_against_pytorch(tmp_path):
    name = "step_dinosaur_bfloat16_remat"
    done, found = _run(tmp_path, f"--parts={name}")
    assert done.returncode == 0, done.stdout + done.stderr
    result = found[name]["result"]
    assert result["losses_agree"]
    assert all(result[side]["seconds"] > 0 for side in ("ours", "eager", "compile"))
    assert result["kernels"]
