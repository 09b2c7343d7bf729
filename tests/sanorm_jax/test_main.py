"""The verbs in processes of their own."""

import ast
import functools
import os
import subprocess
import sys

import pytest

from sanorm_jax.__main__ import VERBS
from tests import commands, tiny

_run = functools.partial(commands.run, "sanorm_jax.main")
_verb = functools.partial(commands.run, "sanorm_jax")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/shapes.py", "--config.num_slotz=7"], "num_slotz"),
        (["--config=configs/shapes.py", "--config.num_slots=many"], "num_slots=many"),
        (["--config=configs/absent.py"], "--config=configs/absent.py: no such file"),
        (["--mode=evaluate"], "Unknown command line flag 'mode'"),
    ],
)
def test_bad_flag_is_reported_without_a_traceback(arguments, message, tmp_path):
    result = _run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [
                "train",
                "--config=configs/shapes.py",
                "--config.data_dir=/none",
                "--workdir=/none",
            ],
            "a store",
        ),
        (["train"], "--config"),
        (["train", "--flagfile=/none"], "--flagfile: "),
        (["train", "--workdir=/none"], "--config"),
        (["evaluate"], "--workdir"),
        (["evaluate", "--workdir=/none"], "contains no run"),
        (
            ["evaluate", "--workdir=/none", "--num_slots=7,x"],
            "--num_slots=7,x: must be",
        ),
        (["evaluate", "--workdir=/none", "--local_device_ids=0,0"], "ids=0,0: must be"),
        (["segment", "--workdir=/none"], "contains no run"),
        (["report", "--workdir=/none"], "contains no run"),
        (["status", "--workdir=/none"], "contains no run"),
        (["status"], "--workdir"),
        (["bands", "--workdir=/none"], "--workdir=/none: has no config with 3"),
        (["status", "--workdir=/none", "run"], "unknown argument run"),
        (["trian"], "no verb 'trian'"),
        ([], "no verb ''"),
        (["paper", "--config.seedz=3"], 'Did you mean "seeds"'),
        (["train", "--config=configs/study_shapes.py"], "a study, not an experiment"),
        (["paper", "--config=configs/shapes.py"], "an experiment, not several studies"),
        # Flags of other verbs.
        (["train", "--num_slots=7"], "flag 'num_slots'"),
        (["evaluate", "--dataset=shapes"], "flag 'dataset'"),
        (["segment", "--max_objects=3"], "flag 'max_objects'"),
        (["report", "--step=3"], "flag 'step'"),
    ],
)
def test_bad_input_is_a_one_line_error(arguments, message):
    result = _verb(*arguments)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and message in line


_RUN = {"config", "workdir"}
_RUN |= {"coordinator_address", "num_processes", "process_id", "local_device_ids"}
_GRID = {"split", "num_slots", "num_iterations", "step"}
_FLAGS = {
    "train": _RUN,
    "evaluate": _RUN | _GRID | {"max_objects", "merge_threshold"},
    "segment": _RUN | _GRID | {"dataset", "data_dir"},
    "report": {"workdir"},
    "status": {"workdir"},
    "bands": {"workdir", "output"},
}


@pytest.mark.parametrize("verb", _FLAGS)
def test_help_lists_only_the_flags_of_the_verb(verb):
    result = _verb(verb, "--help")
    listed = {
        line.split(":")[0].strip().removeprefix("--")
        for line in result.stdout.splitlines()
        if line.startswith("  --")
    }
    assert listed == _FLAGS[verb]


_HELP = """
import runpy, sys
sys.argv = {argv}
try:
    runpy.run_module("sanorm_jax", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
print(sorted(sys.modules.keys() & {{"jax", "tensorflow", "torch"}}))
"""


@pytest.mark.parametrize(
    "argv", [["--help"], ["status", "--help"], ["evaluate", "--help"], ["status"]]
)
def test_read_only_verbs_import_no_large_library(argv):
    code = _HELP.format(argv=["sanorm", *argv])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=commands.ROOT, capture_output=True, text=True
    )
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - _FLAGS))
def test_every_verb_can_be_chosen(verb):
    result = _verb(verb, "--help")
    assert "--helpfull" in result.stdout, result.stderr


def test_restarting_on_exit_code_124_completes_the_run(data_dir, tmp_path):
    # The time of the first start is over before it has done anything; the second has
    # no limit.
    config = tiny.config(data_dir)
    arguments = [
        "--config=configs/dinosaur.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data_dir={config.data_dir}",
        "--config.dataset=random",
        "--config.encoder=random",
        "--config.batch_size=8",
        "--config.evaluation_batch_size=8",
        "--config.evaluation_resolution=16",
        "--config.model.decoder_hidden_dim=8",
        "--config.num_train_steps=4",
        "--config.num_figure_examples=0",
        "--config.compilation_cache=False",
    ]
    starts = [
        _run(*arguments, f"--config.time_limit_h={limit}") for limit in (1e-6, 0.0, 0.0)
    ]
    assert [start.returncode for start in starts] == [124, 0, 0]


@pytest.mark.parametrize("script", [["-m", "sanorm_jax.main"], ["sanorm_jax/main.py"]])
def test_files_of_the_user_do_not_shadow_modules(script, tmp_path):
    for name in ("configs", "core", "data", "evaluate", "main", "tasks", "train"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('shadowed')\n")
    *option, module = script
    if not option:
        module = str(commands.ROOT / module)
    done = subprocess.run(
        [
            sys.executable,
            *option,
            module,
            f"--config={commands.ROOT / 'configs/shapes.py'}",
            "--config.data_dir=absent",
            "--workdir=run",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(commands.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "shadowed" not in done.stderr
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert "absent" in line
