import pytest

from benchmarks import train_step_memory
from benchmarks.train_step_cases import Case
from tests import commands


# In a process of its own: PyTorch's optimizers load compilers beside JAX's.
@pytest.mark.parametrize(
    "task",
    [
        *(pytest.param(t, marks=pytest.mark.long) for t in ("autoencoder", "dinosaur")),
        "set_predictor",
    ],
)
def test_both_implementations_take_the_same_steps(task):
    """The benchmark fails where losses differ, before or after its steps."""
    flags = "--cases=small", f"--tasks={task}", "--repeats=2"
    done = commands.run("benchmarks.train_step", *flags)
    assert done.returncode == 0, done.stderr
    assert f"{task}, 16" in done.stdout


def test_counted_operations_are_the_decoders_products():
    few, many = (
        train_step_memory.lower(
            Case("dinosaur", 2, 3, tokens=tokens, feature_dim=8)
        ).cost_analysis()["flops"]
        for tokens in (16, 32)
    )
    # Two layers of [2 x 3 x 16, 1024] by [1024, 1024], forward and two backward each.
    products = 2 * 3 * (2 * (2 * 3 * 16) * 1024 * 1024)
    assert products < many - few < 1.1 * products
