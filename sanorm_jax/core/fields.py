"""Valid ranges of the numbers in a config, by the name of the field."""

import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import ml_collections

from sanorm_jax.core.errors import UserError

_POSITIVE_INTEGERS = [
    "batch_size",
    "checkpoint_every_steps",
    "common_dim",
    "decoder_hidden_dim",
    "encoder_kernel_size",
    "evaluate_every_steps",
    "evaluation_batch_size",
    "evaluation_resolution",
    "feature_dim",
    "hidden_dim",
    "log_every_steps",
    "num_checkpoints",
    "num_heads",
    "num_iterations",
    "num_slots",
    "num_train_steps",
    "property_hidden_dim",
    "sample_slots",
    "slot_dim",
    "table_slots",
]
_NON_NEGATIVE_INTEGERS = [
    "cosine_steps",
    "data_seed",
    "decoder_num_hidden_layers",
    "evaluation_max_objects",
    "evaluation_min_objects",
    "evaluation_seed",
    "half_life_steps",
    "learnable_dim",
    "max_objects",
    "min_objects",
    "num_figure_examples",
    "num_processes",
    "num_samples",
    "num_train_examples",
    "num_train_sequences",
    "num_validation_examples",
    "num_validation_sequences",
    "seed",
    "seeds",
    "warmup_steps",
]
_POSITIVE = ("epsilon", "learning_rate", "learning_rates")
_NON_NEGATIVE = (
    "clip_norm",
    "keep_penalty",
    "loss_weight",
    "merge_threshold",
    "merge_thresholds",
    "slot_share_penalty",
    "time_limit_h",
    "warmup_start",
    "weight",
)
# Fields that may be None.
MAY_BE_EMPTY = frozenset({"common_dim"})
# Fields that must not be empty tuples.
_NON_EMPTY = (
    "keep_penalty",
    "loss_weight",
    "num_slots",
    "seeds",
    "slot_share_penalty",
)
# Fields that are paths of files or folders.
PATHS = frozenset({"data_dir", "init_from"})


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


_Rule = tuple[Callable[[Any], bool], str]
_RULES: dict[str, _Rule] = {}
for _names, _rule in (
    (_POSITIVE_INTEGERS, (lambda x: _is_integer(x) and x > 0, "a positive integer")),
    (
        _NON_NEGATIVE_INTEGERS,
        (lambda x: _is_integer(x) and x >= 0, "a non-negative integer"),
    ),
    (_POSITIVE, (lambda x: _is_finite(x) and x > 0, "a positive number")),
    (_NON_NEGATIVE, (lambda x: _is_finite(x) and x >= 0, "a non-negative number")),
):
    _RULES |= dict.fromkeys(_names, _rule)


def walk(
    config: ml_collections.ConfigDict, prefix: str = "config"
) -> Iterator[tuple[str, ml_collections.ConfigDict, str, Any]]:
    """Yield `(path, group, name, value)` of every field, including nested ones."""
    for name, value in config.items():
        path = f"{prefix}.{name}"
        yield path, config, name, value
        if isinstance(value, ml_collections.ConfigDict):
            yield from walk(value, path)


def check(config: ml_collections.ConfigDict, prefix: str = "config"):
    """Raise `UserError` if a number of a config at `prefix` is out of its range."""
    for path, _, name, value in walk(config, prefix):
        if name not in _RULES or (value is None and name in MAY_BE_EMPTY):
            continue
        is_valid, description = _RULES[name]
        if isinstance(value, ml_collections.ConfigDict):
            value = value.to_dict()
        if value == () and name in _NON_EMPTY:
            raise UserError(f"{path}: is empty; set at least one value")
        if not all(map(is_valid, _entries(value))):
            raise UserError(f"{path}={value}: must be {description}")


def _entries(value: Any) -> Iterator[Any]:
    """Yield the leaves of nested tuples, or the value itself."""
    if isinstance(value, tuple | list):
        for entry in value:
            yield from _entries(entry)
    else:
        yield value
