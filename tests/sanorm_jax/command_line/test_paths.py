"""Paths with `~`, as shells leave it in `--name=~/folder`."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from sanorm_jax.__main__ import VERBS
from sanorm_jax.core import fields
from tests import commands
from tests.sanorm_jax.command_line.test_fields import CONFIGS

# Folders of commands, and how their modules are called.
_FOLDERS = {
    "sanorm_jax": "sanorm_jax",
    "data": "sanorm_jax.data",
    "feature_extraction": "sanorm_jax.feature_extraction",
    "benchmarks": "benchmarks",
    "tests/parity": "tests.parity",
    "tests/faults": "tests.faults",
}


def _modules():
    for folder, package in _FOLDERS.items():
        root = commands.ROOT / folder
        for path in sorted(root.rglob("*.py")):
            if "commands.main(" in (text := path.read_text()) or "options.run(" in text:
                parts = path.relative_to(root).with_suffix("").parts
                yield ".".join([package, *parts]).removesuffix(".__main__")


# Modules of commands, but not the one that defines how commands start.
MODULES = sorted(
    {*_modules()} - {"sanorm_jax.core.commands", "sanorm_jax.command_line.options"}
)

# Prints all options of commands that are texts, and each one's value for a path in the
# home folder.
_OPTIONS = """
import json, runpy, sys
from absl import app, flags, logging
from sanorm_jax.core import commands
known, found = set(flags.FLAGS), {}

def main(*_, **__):
    pass

commands.main = main
for module in sys.argv[2:]:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    found[module] = {}
    for name in set(flags.FLAGS) - known:
        flag = flags.FLAGS[name]
        if flag.flag_type() in ("string", "config object"):
            found[module][name] = flag.help, str(flag.parser.parse(sys.argv[1]))
        delattr(flags.FLAGS, name)
print(json.dumps(found))
"""
_OF_PATHS = re.compile(
    r"^\w*dir\b|^store\b|\b(files?|folder|path|wheel)\b", re.IGNORECASE
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("home")
    (path / "mine.py").write_text(
        "import ml_collections\n\ndef get_config():\n"
        "    return ml_collections.ConfigDict({'found': True})\n"
    )
    return path


@pytest.fixture(scope="module")
def options(home):
    """Return help and parsed path of the options, by command and name."""
    done = subprocess.run(
        [sys.executable, "-c", _OPTIONS, "~/mine.py", *MODULES],
        cwd=commands.ROOT,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_all_verbs_are_among_the_commands():
    assert set(VERBS.values()) <= {*MODULES, "sanorm_jax.study"}
    assert "benchmarks.gpu" in MODULES and "tests.parity" in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_path_may_be_in_the_home_folder(module, options, home):
    for name, (text, value) in options[module].items():
        if name == "config":
            assert value.strip() == "found: true"
        elif _OF_PATHS.search(f"{name}: {text}"):
            assert value == str(home / "mine.py"), f"{module} --{name}"


@pytest.mark.parametrize("source", ["checkpoint", "onnx"])
def test_files_to_convert_may_be_in_the_home_folder(source, home):
    module = f"feature_extraction.convert_{source}"
    done = commands.run(module, "~/absent", "~/out.safetensors", HOME=str(home))
    assert done.returncode == 2
    assert f"{home}/absent" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_field_that_is_a_path_is_known(path):
    config = importlib.import_module(f"sanorm_jax.configs.{path.stem}").get_config()
    of_paths = re.compile(r"(^|_)(dir|folder|path|file|from)($|_)")
    found = {name for _, _, name, _ in fields.walk(config) if of_paths.search(name)}
    assert found == fields.PATHS
