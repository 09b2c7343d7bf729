"""The package as others install it: built, put in a new folder, used from there."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("sanorm_jax", "data", "configs", "feature_extraction")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of what git tracks, for builds write beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def _build(source, kind, out):
    code = f"from setuptools import build_meta as b; b.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return _build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", f"--target={folder}", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
    return folder


def _run(installed, cwd, *command, code=0):
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def _modules():
    """Return the names of all files as a wheel has to hold them."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            yield name if package == "sanorm_jax" else f"sanorm_jax/{name}"


def test_the_wheel_holds_every_module_within_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sanorm_jax"}
    found = {name for name in names if name.endswith(".py")}
    assert found == set(_modules())
    assert "sanorm_jax/py.typed" in names
    for folder in ("templates", "bands"):
        shipped = (ROOT / "sanorm_jax/report" / folder).iterdir()
        assert {path.relative_to(ROOT).as_posix() for path in shipped} <= set(names)
    models = (ROOT / "sanorm_jax/published").glob("*/*/*")
    assert {path.relative_to(ROOT).as_posix() for path in models} <= set(names)
    assert "sanorm_jax/published/shapes/batch_norm/weights.safetensors" in names


def test_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    (tmp_path / "sdist").mkdir()
    archive = _build(source, "sdist", tmp_path / "sdist")
    shutil.unpack_archive(archive, tmp_path)
    (unpacked,) = tmp_path.glob("sanorm_jax-*")
    (tmp_path / "wheel").mkdir()
    again = _build(unpacked, "wheel", tmp_path / "wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(
        zipfile.ZipFile(wheel).namelist()
    )


def test_it_is_imported_from_elsewhere_and_takes_no_names(installed, tmp_path):
    # A package of the user's own under a name that the repository has too.
    (tmp_path / "data").mkdir()
    (tmp_path / "data/__init__.py").write_text("MINE = True\n")
    code = f"""
import importlib.util, pathlib
import data, sanorm_jax
import sanorm_jax.data.store, sanorm_jax.configs.dinosaur
import sanorm_jax.feature_extraction.options
assert data.MINE
assert importlib.util.find_spec("configs") is None
assert importlib.util.find_spec("feature_extraction") is None
site = pathlib.Path({str(installed)!r})
for module in (sanorm_jax, sanorm_jax.data.store, sanorm_jax.configs.dinosaur):
    assert site in pathlib.Path(module.__file__).parents, module
print(sanorm_jax.SlotAttention.__name__, sanorm_jax.load.__name__)
"""
    done = _run(installed, tmp_path, "-c", code)
    assert done.stdout.strip() == "SlotAttention open_run"


def test_its_commands_prepare_and_train_from_an_empty_folder(installed, tmp_path):
    # What the script `sanorm` does.
    verb = ("-c", "from sanorm_jax.__main__ import main; main()")
    _run(
        installed,
        tmp_path,
        *verb,
        "prepare",
        "--dataset=blocks",
        "--data_dir=d",
        "--splits=train:32,validation:8",
        "--num_workers=1",
    )
    _run(
        installed,
        tmp_path,
        *verb,
        "train",
        "--config=configs/blocks.py",
        "--workdir=run",
        "--config.data_dir=d",
        "--config.num_train_steps=1",
        "--config.optimizer.cosine_steps=600",
        "--config.model.feature_dim=4",
        "--config.evaluation_batch_size=8",
        "--config.num_figure_examples=0",
    )
    done = _run(installed, tmp_path, *verb, "status", "--workdir=run")
    assert "1" in done.stdout
    done = _run(installed, tmp_path, *verb, "trian", code=2)
    assert done.stderr.startswith("error: no verb 'trian'; usage: sanorm VERB")


def test_a_study_s_job_script_needs_nothing_but_the_package(installed, tmp_path):
    command = ("-m", "sanorm_jax.study", "--config=configs/study_blocks.py")
    _run(installed, tmp_path, *command, "--workdir=study", "--submit")
    stand_ins = {"srun": 'echo "srun $*"; exit 124', "scontrol": 'echo "scontrol $*"'}
    for name, line in stand_ins.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "0",
    }
    job = subprocess.run(
        ["bash", tmp_path / "study" / "study.sbatch"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 124, job.stderr
    workdir = tmp_path / "study"
    assert f"-m sanorm_jax.study --workdir={workdir} --job=0" in job.stdout
    assert "scontrol requeue 77_0" in job.stdout


def test_its_version_is_that_of_the_wheel(installed, wheel, tmp_path):
    code = "import sanorm_jax; print(sanorm_jax.__version__)"
    version = _run(installed, tmp_path, "-c", code).stdout.strip()
    assert wheel.name.startswith(f"sanorm_jax-{version}-")
