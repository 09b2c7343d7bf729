"""Train an experiment: `python -m sanorm_jax.main --config=configs/shapes.py`.

Every field of the config is a flag, such as `--config.seed=1`.
"""

from sanorm_jax.command_line import options, run_flags
from sanorm_jax.core.errors import UserError
from sanorm_jax.run.distribution import preemption

_RUN = run_flags.RunFlags()


def _train() -> int:
    if _RUN.config.value is None:
        raise UserError("--config: required; pass a file in configs/")
    preemption.leave_on_signals()
    with _RUN.joined():
        from sanorm_jax import train

        return train.train(_RUN.config.value, _RUN.workdir)


if __name__ == "__main__":
    options.run(_train, _RUN.config, kind="an experiment")
