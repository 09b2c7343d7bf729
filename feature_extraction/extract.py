"""Write features to a store: `python -m feature_extraction.extract --encoder=...`.

The command can be killed at any time; the same command resumes. The jobs of an array
(`--shard=I/N`) share only the file system.
"""

from absl import flags, logging

from sanorm_jax.core import commands, run_data
from sanorm_jax.core.errors import UserError

from .features import extract
from .options import PROJECTION, RECORDED, Options

_DATASET = flags.DEFINE_string("dataset", None, "Dataset of the images.", required=True)
_NAME = flags.DEFINE_string(
    "name", None, "Name of the store of the images; the dataset's if unset."
)
_DATA_DIR = commands.define_path("data_dir", "datasets", "Folder of the stores.")
_ENCODER = flags.DEFINE_string("encoder", None, "Name of a timm ViT, or patches.")
_LIKE = commands.define_run("like", "Run or published model: use its encoder.")
_SPLITS = flags.DEFINE_list("splits", None, "Splits to write; all if unset.")
_SHARD = flags.DEFINE_string("shard", "0/1", "I/N: job I of N, counted from 0.")
_REPAIR = flags.DEFINE_boolean("repair", False, "Check and replace damaged shards.")
_OPTIONS = commands.define_options(Options)


def _part(value: str) -> tuple[int, int]:
    index, _, count = value.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise UserError(f"--shard={value}: invalid; use I/N with I from 0 to N-1")
    return int(index), int(count)


def _parse(argv: list[str]) -> list[str]:
    # absl negates flags with --nofinal_norm only.
    negated = ("--no-final-norm", "--no-final_norm", "--no_final_norm")
    return commands.parse_flags(["--nofinal_norm" if a in negated else a for a in argv])


def _extract():
    options, encoder = _OPTIONS(), _ENCODER.value
    if _LIKE.value is not None:
        for name in ("encoder", *PROJECTION, *RECORDED):
            if flags.FLAGS[name].present:
                raise UserError(f"--{name}: also set by --like; remove one of the two")
        like = run_data.read(_LIKE.value)["features"]
        if like is None:
            logging.info("nothing to do: %s reads images", _LIKE.value)
            return
        options, encoder = options.like(like), like["encoder"]
    elif encoder is None:
        raise UserError("--encoder: required; pass a name or --like=WORKDIR")
    extract(
        _DATA_DIR.value,
        _NAME.value or _DATASET.value,
        encoder,
        options,
        dataset=_DATASET.value,
        splits=_SPLITS.value,
        part=_part(_SHARD.value),
        repair=_REPAIR.value,
        like=_LIKE.value,
    )


if __name__ == "__main__":
    commands.main(_extract, parse=_parse)
