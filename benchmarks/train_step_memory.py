"""Count memory, operations and bytes of training steps without running them.

    python -m benchmarks.train_step_memory --what=memory
    python -m benchmarks.train_step_memory --what=gpu

`memory` compiles DINOSAUR's step with and without remat, and prints the memory of its
state and temporary buffers as XLA reports it. `gpu` scales the operations and bytes of
steps at a small batch size to the paper's batch sizes, and divides them by the rates in
data sheets. The times are calculated, not measured.
"""

import dataclasses

import jax
from absl import flags
from rich.table import Table

from benchmarks import tables
from benchmarks import train_step_cases as cases
from benchmarks.train_step_cases import Case
from sanorm_jax.core import commands
from sanorm_jax.models import convolution

_WHAT = flags.DEFINE_enum("what", "memory", ["memory", "gpu"], "Table to print.")

MEMORY_CASES = [
    Case("dinosaur", 16, num_slots, tokens=tokens)
    for num_slots, tokens in ((11, 196), (11, 784), (22, 784))
]
# Buffers are assigned before code generation, so its quality does not matter.
QUICK = {"xla_backend_optimization_level": "0"}
# Dense TF32 and bfloat16 FLOP/s, and memory bytes/s, of the data sheets.
GPUS = {
    "A100 40 GB": (156e12, 312e12, 1.555e12),
    "H100 SXM": (494.7e12, 989.4e12, 3.35e12),
}


def lower(case: Case) -> jax.stages.Lowered:
    """Return the lowered step of a case, from shapes only."""
    model = cases.make_model(case)
    inputs = cases.make_inputs(case, model.slot_attention.slot_dim)

    def init(x, noise):
        params = model.init(jax.random.key(0), x, train=True, noise=noise)["params"]
        return params, cases.TX.init(params)

    return cases.lower_step(model, jax.eval_shape(init, *inputs[:2]), inputs)


def memory_table() -> Table:
    """Return the table of the memory of compiled steps."""
    columns = ("state and inputs, GB", "temporary, GB", "remat, GB", "ratio")
    table = tables.make(None, "case", *columns)
    for case in MEMORY_CASES:
        plain, remat = (
            lower(dataclasses.replace(case, remat=remat))
            .compile(compiler_options=QUICK)
            .memory_analysis()
            for remat in (False, True)
        )
        sizes = [
            plain.argument_size_in_bytes,
            plain.temp_size_in_bytes,
            remat.temp_size_in_bytes,
        ]
        gigabytes = [f"{size / 1e9:.2f}" for size in sizes]
        table.add_row(str(case), *gigabytes, f"{sizes[1] / sizes[2]:.1f}")
    return table


def gpu_table() -> Table:
    """Return the table of minimum step times by the data sheets."""
    convolution.tuned_for_cpu = lambda: False  # as on GPUs
    columns = ("TFLOP", "GB", "GPU", "TF32, ms", "bfloat16, ms", "bytes, ms")
    table = tables.make(None, "step", *columns)
    for case in cases.PAPER:
        batch_size = cases.PUBLISHED_BATCH_SIZES[case.task]
        factor = batch_size / case.batch_size
        lowered = lower(case)
        flops = lowered.cost_analysis()["flops"] * factor
        compiled = lowered.compile(compiler_options=QUICK)
        size = compiled.cost_analysis()["bytes accessed"] * factor
        for gpu, (tf32, bfloat16, bandwidth) in GPUS.items():
            times = flops / tf32, flops / bfloat16, size / bandwidth
            table.add_row(
                f"{case.task}, batch {batch_size}",
                f"{flops / 1e12:.1f}",
                f"{size / 1e9:.0f}",
                gpu,
                *(f"{1e3 * seconds:.0f}" for seconds in times),
            )
    return table


def main():
    """Print the chosen table."""
    tables.show(memory_table() if _WHAT.value == "memory" else gpu_table())


if __name__ == "__main__":
    commands.main(main)
