"""Vision Transformers of timm as frozen encoders of patch tokens."""

import contextlib
import difflib
import inspect
import logging as std_logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import timm
import torch
from absl import logging
from torch import nn
from torch.nn import functional

from sanorm_jax.core.errors import UserError, list_some

from . import layouts, weights
from .options import Options

# Prefixes of the encoder in checkpoints of DINO and DINOSAUR.
_PREFIXES = ("backbone.", "encoder.")
# Modules of a checkpoint or a model that do not contribute to tokens.
_HEADS = ("head.", "head_dist.", "fc_norm.", "pre_logits.", "decoder", "mask_token")
_HEADS += ("attn_pool.",)  # SigLIP's pooling


class VitEncoder:
    """Patch tokens of a block of a ViT, in row-major order.

    The full image is resized to the model's input size with the interpolation of
    timm's data config (usually bicubic), without antialiasing or cropping, and
    normalized with timm's mean and standard deviation. Prefix tokens (class token,
    registers) are dropped.

    Args:
      name: Name of the model in timm, preferably with its tag.
      options: Options of the encoder.

    Raises:
      UserError: The model is unknown or not a ViT, the weights are missing or do not
        fit, or an option is out of range.
    """

    def __init__(self, name: str, options: Options):
        self._name, self._device = name, _device(options.device)
        # On CPUs, batches whose tokens fit in the cache are 25 % faster.
        on_gpu = self._device.type == "cuda"
        self._batch_size = options.batch_size or (64 if on_gpu else 8)
        dtype = _dtype_name(options.dtype, self._device)
        self._dtype = getattr(torch, dtype)
        # The patch embedding is a convolution, for which PyTorch would use TF32.
        torch.backends.cudnn.allow_tf32 = False
        self._model, weights_id = _load(name, options)
        self._layer = _layer(name, self._model, options.layer)
        self._final_norm = options.final_norm
        if self._final_norm and isinstance(
            getattr(self._model, "norm", None), (nn.Identity, type(None))
        ):
            raise UserError(
                f"--encoder={name}: has no final LayerNorm; add --no-final-norm"
            )
        config = timm.data.resolve_model_data_config(self._model)
        self._size = options.input_size or config["input_size"][-1]
        self._mode = config["interpolation"]
        if self._mode not in ("bicubic", "bilinear"):
            self._mode = "bicubic"
        with _enough_memory(
            f"--encoder={name}: exceeds the free GPU memory; choose --device=cpu"
        ):
            # [1, 3, 1, 1]
            self._mean, self._std = (
                torch.tensor(config[key], device=self._device).view(1, 3, 1, 1)
                for key in ("mean", "std")
            )
            self._model.to(self._device)
            _, self.num_tokens, self.feature_dim = self._tokens(
                torch.zeros((1, self._size, self._size, 3), dtype=torch.uint8)
            ).shape
        self.settings: dict[str, Any] = {
            "encoder": name,
            "timm": timm.__version__,
            "tag": self._model.pretrained_cfg.get("tag") or "",
            "weights": weights_id,
            "input_size": self._size,
            "resize": "whole image to the input size, no crop",
            "interpolation": self._mode,
            "antialias": False,
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "layer": self._layer,
            "final_norm": self._final_norm,
            "prefix_tokens_dropped": self._model.num_prefix_tokens,
            "compute_dtype": dtype,
        }
        logging.info(
            "%s on %s: %d tokens of %d; %s",
            name,
            self._device,
            self.num_tokens,
            self.feature_dim,
            self.settings,
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return float16 features `[B, N, D]` of uint8 images `[B, H, W, 3]`.

        Raises:
          UserError: A batch exceeds the GPU memory.
        """
        shape = (len(images), self.num_tokens, self.feature_dim)
        features = np.empty(shape, np.float16)
        starts = range(0, len(images), self._batch_size)
        batches = [slice(start, start + self._batch_size) for start in starts]
        enough = _enough_memory(
            f"--batch_size={self._batch_size}: exceeds the GPU memory; choose a "
            "smaller one and run again (finished shards are kept)"
        )
        with enough:
            sent = self._send(images[batches[0]])
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                tokens = self._tokens(sent)
                if following is not None:
                    # A GPU still encodes the batch at this point.
                    sent = self._send(images[following])
                features[batch] = tokens.cpu().numpy()
        return features

    def _send(self, images: np.ndarray) -> torch.Tensor:
        batch = torch.from_numpy(np.ascontiguousarray(images))
        if self._device.type == "cuda":
            # Only copies of pinned memory overlap with computation.
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        return batch

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Return the model input `[B, 3, S, S]`, float32, of uint8 `[B, H, W, 3]`."""
        # [B, 3, H, W]
        x = images.to(self._device).permute(0, 3, 1, 2).float() / 255
        size = (self._size, self._size)
        x = functional.interpolate(
            x, size, mode=self._mode, align_corners=False, antialias=False
        )
        return (x - self._mean) / self._std

    @torch.inference_mode()
    def _tokens(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(
            self._device.type, self._dtype, enabled=self._dtype != torch.float32
        ):
            (tokens,) = self._model.forward_intermediates(
                self.preprocess(images),
                indices=[self._layer],
                norm=self._final_norm,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
        return tokens.to(torch.float16)


@contextlib.contextmanager
def _enough_memory(message: str):
    """Raise `UserError` with the message if the GPU memory is exceeded."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(message) from None


def _device(name: str | None) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device=cuda: PyTorch found no GPU; choose --device=cpu")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions.

    Without them, PyTorch emulates bfloat16, several times slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # The check of oneDNN does not suffice: it passes on any CPU with AVX-512.
    found = torch.cpu.get_capabilities()
    instructions = ("amx_bf16", "avx512_bf16", "bf16")  # x86, x86, ARM
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and any(
        found.get(name, False) for name in instructions
    )


def _dtype_name(name: str, device: torch.device) -> str:
    """Return the compute dtype's name, with `auto` resolved for the device."""
    if name != "auto":
        return name
    native = has_native_bfloat16(device)
    dtype = "bfloat16" if native else "float32"
    logging.info("--dtype=auto: %s on %s", dtype, device)
    return dtype


def _check_name(name: str):
    models = timm.list_models()
    tagged = timm.list_pretrained()
    if name in models or name in tagged:
        return
    # If only the tag is wrong, suggest tags of the same model.
    base = name.split(".")[0]
    own = [known for known in tagged if known.split(".")[0] == base]
    nearest = difflib.get_close_matches(
        name, own or ["patches", *models, *tagged], 4, 0.5
    )
    near = nearest or own[:4]
    raise UserError(
        f"--encoder={name}: not in timm {timm.__version__}; choose from "
        f"{', '.join(near) or 'timm.list_models()'}"
    )


def _load(name: str, options: Options) -> tuple[nn.Module, str]:
    """Return the model in evaluation mode, and an identifier of its weights."""
    _check_name(name)
    arguments: dict[str, Any] = {"num_classes": 0}
    if options.input_size is not None:
        arguments["img_size"] = options.input_size
    state = None
    if options.weights is not None:
        state = weights.find_state(options.weights, weights.load(options.weights))
        state = layouts.to_timm(state)
        for prefix in _PREFIXES:
            state = _under(prefix, state)
    try:
        model = timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:
        given = f" --input_size={options.input_size}" if options.input_size else ""
        raise UserError(
            f"--encoder={name}{given}: rejected by timm ({weights.first_line(error)}); "
            "choose another model or size"
        ) from None
    known = inspect.signature(getattr(model, "forward_intermediates", len)).parameters
    if not hasattr(model, "num_prefix_tokens") or "norm" not in known:
        raise UserError(
            f"--encoder={name}: not a plain ViT; choose from timm.list_models('vit*')"
        )
    size, patch = options.input_size, getattr(model.patch_embed, "patch_size", None)
    if size is not None and patch is not None and size % patch[0]:
        raise UserError(
            f"--input_size={size}: choose a multiple of the patch size {patch[0]}"
        )
    if state is not None:
        _fit(name, model, state, f"--weights={options.weights}")
        return model.eval(), weights.sha256(options.weights)
    # The hub warns about each retry, which would hide the error.
    std_logging.getLogger("huggingface_hub").setLevel(std_logging.ERROR)
    try:
        model = timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:
        # The libraries of the hub raise various types.
        raise UserError(
            f"--encoder={name}: download from timm's hub failed "
            f"({weights.first_line(error)}); pass a file as --weights"
        ) from None
    return model.eval(), "timm pretrained"


def _under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = {k: k.removeprefix(prefix) for k in state if k.startswith(prefix)}
    return {new: state[old] for old, new in names.items()} or state


def _fit(name: str, model: nn.Module, state: Mapping[str, torch.Tensor], where: str):
    """Load the weights into the model, which must be complete except for heads."""
    entrypoint = timm.model_entrypoint(name.split(".")[0])
    convert = getattr(inspect.getmodule(entrypoint), "checkpoint_filter_fn", None)
    try:
        # timm renames published layouts and resizes position embeddings.
        state = convert(dict(state), model) if convert else state
        state = {key: x for key, x in state.items() if not key.startswith(_HEADS)}
        missing, unknown = model.load_state_dict(state, strict=False)
        missing = [key for key in missing if not key.startswith(_HEADS)]
        if missing or unknown:
            raise ValueError(
                f"{len(missing)} missing: {list_some(missing)}; "
                f"{len(unknown)} unknown: {list_some(unknown)}"
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{where}: does not fit {name} ({reason}); choose another --encoder"
        ) from None


def _layer(name: str, model: nn.Module, layer: int | None) -> int:
    depth = len(model.blocks)
    if layer is None:
        return depth - 1
    if not 0 <= layer < depth:
        raise UserError(
            f"--layer={layer}: not a block of {name}; choose 0 to {depth - 1}"
        )
    return layer
