"""Output of a command, in a terminal and in a log."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tests import tiny

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

_WORK = """
import logging, sys, time
from absl import logging as absl_logging
from sanorm_jax.core import commands, console, progress

def say(text, path):
    # Where a line was written tells whose it is.
    record = logging.LogRecord("absl", logging.INFO, path, 1, text, (), None)
    logging.getLogger("absl").handle(record)

def work():
    with console.log_to(console.pathlib.Path(sys.argv[1])):
        say("one of ours", progress.__file__)
        say("one of orbax", "/site-packages/orbax/checkpoint.py")
        absl_logging.get_absl_logger().handle(
            logging.LogRecord(
                "absl", logging.WARNING, "/site-packages/other.py", 1, "beware", (), 0
            )
        )
        with progress.Progress("working", 4, "steps", 2) as bar:
            bar.advance(2, "well")

sys.exit(commands.run(work))
"""


def _in_terminal(command, **options) -> str:
    """Run a command in a terminal and return its output without colors."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, **options
    )
    os.close(follower)
    written = b""
    while True:
        try:
            read = os.read(leader, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not read:
            break
        written += read
    assert process.wait() == 0, written.decode()
    return _ESCAPES.sub("", written.decode()).replace("\r", "\n")


def _in_log(command) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"FORCE_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("run", [_in_terminal, _in_log])
def test_terminal_is_brief_and_the_log_file_is_complete(run, tmp_path):
    shown = run([sys.executable, "-c", _WORK, str(tmp_path)])
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    bare = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in lines]
    assert bare[:2] == ["one of ours", "warning: beware"]
    assert (bare == lines) == (run is _in_terminal)
    assert "orbax" not in shown
    assert ("4/4" in shown) == (run is _in_terminal)
    assert ("working: 4 steps" in shown) == (run is _in_log)
    recorded = (tmp_path / "log.txt").read_text()
    for text in ("one of ours", "one of orbax", "beware"):
        assert recorded.count(text) == 1


def test_log_to_standard_error_has_each_line_once(tmp_path):
    with (tmp_path / "log.txt").open("ab") as log:
        subprocess.run(
            [sys.executable, "-c", _WORK, str(tmp_path)], stderr=log, check=True
        )
    assert (tmp_path / "log.txt").read_text().count("one of ours") == 1


def test_training_logs_each_fact_in_one_line(data_dir, tmp_path):
    config = tiny.config(data_dir)
    file = tmp_path / "config.py"
    file.write_text(
        "import json, ml_collections\n"
        f"def get_config(): return ml_collections.ConfigDict(json.loads('''"
        f"{config.to_json_best_effort()}'''))\n"
    )
    command = [sys.executable, "-m", "sanorm_jax.main", f"--config={file}"]
    shown = _in_terminal([*command, f"--workdir={tmp_path / 'run'}"])
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    said = [line for line in lines if "━" not in line]
    patterns = (
        r"the model has [\d,]+ parameters",
        r"training on 40 examples",
        r"the first step finished [\d.]+ s after process start",
        r"step 4, default: masks: FG-ARI -?[\d.]+, ARI -?[\d.]+, mBO [\d.]+",
        r"step 6, default: masks: FG-ARI -?[\d.]+, ARI -?[\d.]+, mBO [\d.]+",
        r"finished: 6 steps in \d+ s",
    )
    assert len(said) == len(patterns), said
    for line, pattern in zip(said, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
    recorded = (tmp_path / "run/log.txt").read_text()
    assert "slot_attention/to_q" in recorded  # the table of parameters
    assert "logging_writer.py" in recorded

    status = [sys.executable, "-m", "sanorm_jax", "status"]
    status.append(f"--workdir={tmp_path / 'run'}")
    options = {"capture_output": True, "text": True, "check": True}
    told = subprocess.run(status, **options).stdout
    assert "6 of 6 steps, finished" in told
    assert "step 6, default: masks: FG-ARI" in told
    assert "empty_slots" not in told
