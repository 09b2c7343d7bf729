"""Every number of every config, given values that it cannot have."""

import pathlib
import sys

import ml_collections
import pytest
from absl import flags

from sanorm_jax import configs
from sanorm_jax.command_line import options
from sanorm_jax.core import commands, fields
from sanorm_jax.core.errors import UserError

CONFIGS = sorted(
    path
    for path in pathlib.Path(configs.__file__).parent.glob("*.py")
    # The fields of paper.py are those of the studies, by reference.
    if path.stem not in ("__init__", "common", "paper")
    and "def get_config" in path.read_text()
)
_WRONG = ("0", "-1", "None", "many", "{'a': 1}", "{}", "1.5", "nan")


def _is_numeric(value) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_is_numeric, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse(monkeypatch, *arguments) -> ml_collections.ConfigDict:
    """Return the config of a command line, read with flags of its own."""
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    flag = options.define_config("")
    options._parse_flags(flag, None, sys.argv)
    try:
        options._check(flag.value)
    except UserError as error:
        sys.exit(commands.fail(error))
    return flag.value


def _numeric_fields(config):
    for path, _, name, value in fields.walk(config):
        if _is_numeric(value) or (value is None and name in fields.MAY_BE_EMPTY):
            yield path, name, value


def _may_be(name, value, given) -> bool:
    """Return whether a field may have a value of `_WRONG`."""
    if given == "None":
        return name in fields.MAY_BE_EMPTY
    if given == "{}":  # how an empty tuple may be written
        return isinstance(value, tuple | list) and name not in (
            "keep_penalty",
            "loss_weight",
            "num_slots",
            "seeds",
            "slot_share_penalty",
        )
    number = {"0": 0, "-1": -1, "1.5": 1.5}.get(given)
    if number is None:
        return False
    try:
        holds, _ = fields._RULES[name]
    except KeyError:
        return False
    return holds(number)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_number_out_of_range_is_rejected(path, monkeypatch, capsys):
    config = _parse(monkeypatch, f"--config={path}")
    found = list(_numeric_fields(config))
    assert len(found) > 30
    for field, name, value in found:
        for given in _WRONG:
            argument = f"--{field}={given}"
            if _may_be(name, value, given):
                _parse(monkeypatch, f"--config={path}", argument)
                continue
            with pytest.raises(SystemExit) as caught:
                _parse(monkeypatch, f"--config={path}", argument)
            assert caught.value.code == 2, argument
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"error: --{field}"), (argument, line)
