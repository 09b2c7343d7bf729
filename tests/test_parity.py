import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from tests.parity import __main__ as parity
from tests.parity import models, rounding
from tests.parity.vectors import Vectors

VECTORS = pathlib.Path(__file__).parent / "vectors"
FILES = sorted(VECTORS.glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_reference(path):
    rows, _ = parity.check_file(path)
    assert rows
    assert not [row for row in rows if not row.passed]


def _changed(tmp_path, name, change):
    """Save a copy of the vectors `name` with arrays changed; return its rows."""
    with np.load(VECTORS / f"{name}.npz") as file:
        arrays = dict(file)
    change(arrays)
    np.savez(tmp_path / f"{name}.npz", **arrays)
    return parity.check_file(tmp_path / f"{name}.npz")[0]


def _failed(rows):
    return [row.quantity for row in rows if not row.passed]


def test_small_errors_are_detected(tmp_path):
    names = [
        "train/attention",
        "grad/to_k.weight",
        "grad_input/inputs",
        "eval_more_slots/slots",
    ]

    def change(arrays):
        for name in names:
            # Ten times the larger of the tolerances, in one entry.
            arrays[name].flat[np.abs(arrays[name]).argmax()] *= 1.001

    assert _failed(_changed(tmp_path, "slot_attention_mean", change)) == names


def test_running_statistics_are_checked(tmp_path):
    after = "params_after_train_forward/update_normalizer."

    def change(arrays):
        for group in ("params_before", "params_after_train_forward"):
            name = f"{group}/update_normalizer."
            arrays[f"{name}variances"] = arrays[f"{name}variances"] * 1.001
            # A thousandth of the batch's standard deviation of 1.8, times 0.1.
            arrays[f"{name}means"] = arrays[f"{name}means"] + np.float32(1.8e-4)

    rows = _changed(tmp_path, "slot_attention_scalar_batch_norm_single", change)
    assert _failed(rows) == [f"{after}means", f"{after}variances"]


def _vectors(tmp_path, arrays):
    np.savez(tmp_path / "made.npz", **arrays)
    return Vectors(tmp_path / "made.npz")


def test_mean_near_zero_is_compared_by_standard_deviation(tmp_path):
    before, after = "params_before/norm.", "params_after_train_forward/norm."
    arrays = {
        f"{before}means": np.zeros(1),
        f"{before}variances": np.ones(1),
        # A batch of mean 1e-4 and standard deviation 2.
        f"{after}means": np.full(1, 1e-5),
        f"{after}variances": np.full(1, 0.9 + 0.1 * 4),
    }
    vectors = _vectors(tmp_path, arrays)
    scales = models._scales_of_means(vectors, vectors.group("params_before/"))
    assert scales == {f"{after}means": pytest.approx(0.1 * 2)}


def _relu(arguments):
    """Return ReLUs of weights `[3, 4]` and inputs `[4]`, and the weights' gradient."""
    weights, x = arguments
    units = weights @ x
    active = (units > 0)[:, None]
    return {"train/units": np.maximum(units, 0), "grad/weights": active * x}


@pytest.mark.parametrize(
    ("other_side", "factor", "passed", "at_kink"),
    [
        (False, 1, True, False),
        (True, 1, True, True),
        (False, 1.001, False, False),
        (True, 1.001, False, False),
    ],
)
def test_kinks_are_distinguished_from_errors(
    tmp_path, other_side, factor, passed, at_kink
):
    weights = np.array([[1, -1, 0, 0], [1, 2, 3, 4], [1, -2, 3, 1]], np.float32)
    x = np.ones(4, np.float32)
    # The first unit is 1.2e-7, within rounding of 0.
    weights[0, 0] = np.nextafter(np.float32(1), np.float32(2))
    arrays = _relu((weights, x))
    if other_side:
        arrays["train/units"][0] = arrays["grad/weights"][0] = 0
    arrays["grad/weights"] *= np.float32(factor)
    vectors = _vectors(tmp_path, arrays)
    rounding.compare(vectors, list(arrays), _relu, (weights, x), {})
    forward, gradient = vectors.rows
    assert forward.passed
    assert not forward.at_kink
    assert (gradient.passed, gradient.at_kink) == (passed, at_kink)
    assert forward.sensitivity < 1e-6
    assert gradient.sensitivity == pytest.approx(1, rel=0.01)  # the kink


def test_true_statistics_before_the_pass_are_used(tmp_path):
    """A file whose "before" is not a view of "after" starts from "before"."""

    def change(arrays):
        before, after = "params_before/{}", "params_after_train_forward/{}"
        for name, old in (("means", 0.5), ("variances", 3.0)):
            name = f"update_normalizer.{name}"
            arrays[before.format(name)] = np.array([old], np.float32)
            fresh = 1.0 if "variances" in name else 0.0
            arrays[after.format(name)] += 0.9 * np.float32(old - fresh)
        for name in [k for k in arrays if k.startswith("eval")]:
            del arrays[name]

    rows = _changed(tmp_path, "slot_attention_scalar_batch_norm_single", change)
    assert not _failed(rows)


def test_missing_comparisons_fail(tmp_path):
    def change(arrays):
        arrays["eval/entropy"] = np.zeros(3)

    rows = _changed(tmp_path, "slot_attention_none", change)
    assert _failed(rows) == ["eval/entropy (left out)"]


def test_missing_and_unknown_weights_fail(tmp_path):
    def change(arrays):
        arrays["params_before/to_x.weight"] = arrays.pop("params_before/to_q.weight")

    (row,) = _changed(tmp_path, "slot_attention_none", change)
    assert not row.passed
    assert "to_q.weight" in row.quantity
    assert "to_x.weight" in row.quantity


def test_unknown_files_fail_and_the_readme_does_not(tmp_path):
    (tmp_path / "README.md").write_text("names and shapes")
    (tmp_path / "transformer_mean.npz").write_bytes(b"")
    (tmp_path / "metrics.npz").write_bytes(b"no archive")
    rows, _ = parity.check_folder(tmp_path)
    assert sorted({row.file for row in rows}) == ["metrics.npz", "transformer_mean.npz"]
    assert not any(row.passed for row in rows)


def test_agrees_with_plain_pytorch_in_float64():
    # A process of its own: the models are imported with another dtype.
    subprocess.run([sys.executable, "-m", "tests.parity.float64"], check=True)


def _exit_code(folder):
    with flagsaver.flagsaver(vectors=folder):
        return parity.commands.run(parity.main)


def test_exit_code_reports_the_outcome(tmp_path, capsys):
    flags.FLAGS.mark_as_parsed()
    name = "optimisation.npz"
    (tmp_path / name).write_bytes((VECTORS / name).read_bytes())
    assert _exit_code(tmp_path) == 0
    assert "adam_trajectory" in capsys.readouterr().out
    (tmp_path / "strange.npz").write_bytes(b"")
    assert _exit_code(tmp_path) == 1
    assert "strange.npz" in capsys.readouterr().out
    assert _exit_code(tmp_path / "nowhere") == 2
    assert capsys.readouterr().err.startswith("error: --vectors=")
