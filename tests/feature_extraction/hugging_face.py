"""Small random ViTs of Hugging Face's transformers, and the timm models they fit.

`python -m tests.feature_extraction.hugging_face` writes what transformers computes with
them to `tests/feature_extraction/hugging_face.npz`; it alone needs transformers.
"""

import pathlib
import tempfile
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

FILE = pathlib.Path(__file__).with_suffix(".npz")
SIDE = 32
_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_PATCHED = {"image_size": SIDE, "patch_size": 8}
# By name: model of transformers, its config, what timm's model has besides.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("ViT", {"intermediate_size": 64}, {"norm_layer": None}),
    "dinov2": ("Dinov2", {"mlp_ratio": 4}, {"init_values": 1.0}),
    "dinov2_gated": (
        "Dinov2",
        {"mlp_ratio": 4, "use_swiglu_ffn": True},
        {
            "init_values": 1.0,
            "mlp_ratio": 2 * 48 / 16,  # transformers rounds 4 * 16 * 2 / 3 up to eights
            "mlp_layer": timm.layers.SwiGLUPacked,
            "act_layer": torch.nn.SiLU,
        },
    ),
    "dinov2_registers": (
        "Dinov2WithRegisters",
        {"mlp_ratio": 4, "num_register_tokens": 3},
        {"init_values": 1.0, "reg_tokens": 3, "no_embed_class": True},
    ),
    "dinov3": (
        "DINOv3ViT",
        {"intermediate_size": 64, "num_register_tokens": 3},
        {"num_reg_tokens": 3, "rope_rotate_half": True},
    ),
    "dinov3_gated": (
        "DINOv3ViT",
        {
            "intermediate_size": 64,
            "num_register_tokens": 3,
            "use_gated_mlp": True,
            "hidden_act": "silu",
        },
        {"num_reg_tokens": 3, "rope_rotate_half": True}
        | {"swiglu_mlp": True, "swiglu_align_to": 8},
    ),
}


def register():
    """Add timm's models of these sizes to its list, as `hf_NAME`."""
    for name, (kind, _, more) in MODELS.items():
        _register(f"hf_{name}", kind, more)


def _register(name: str, kind: str, more: dict[str, Any]):
    def make(pretrained=False, num_classes=0, img_size=SIDE, **kwargs):
        options = {"img_size": img_size, "patch_size": 8, "num_classes": num_classes}
        options |= {"embed_dim": 16, "depth": 2, "num_heads": 2, "qkv_bias": True}
        if kind == "DINOv3ViT":
            model = Eva(
                **options | {"dynamic_img_size": True, "init_values": 1.0},
                rope_type="dinov3",
                rope_temperature=100.0,
                use_rot_pos_emb=True,
                use_abs_pos_emb=False,
                use_fc_norm=False,
                norm_layer=_norm(1e-5),
                **{"mlp_ratio": 4} | more,
            )
        else:
            eps = 1e-12 if kind == "ViT" else 1e-6
            model = VisionTransformer(**options | more | {"norm_layer": _norm(eps)})
        model.pretrained_cfg = {
            "input_size": (3, SIDE, SIDE),
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }
        return model

    make.__name__ = name
    # The module says which renaming of timm's own applies.
    make.__module__ = Eva.__module__ if kind == "DINOv3ViT" else __name__
    timm.models.register_model(make)


def _norm(eps):
    return lambda width, **_: torch.nn.LayerNorm(width, eps=eps)


def compute(name: str) -> dict[str, np.ndarray]:
    """Return input `x` and the patches' `tokens` of a model of transformers.

    Its state is there under the names that it is saved under, `saved/NAME`, and under
    those that it has in memory, `memory/NAME`, where they differ.
    """
    import transformers

    kind, config, _ = MODELS[name]
    torch.manual_seed(0)
    options = _SMALL | _PATCHED | config
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**options)
    ).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        out = model(x).last_hidden_state
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        file = pathlib.Path(folder) / "model.safetensors"
        saved = safetensors.torch.load_file(file)
    memory = model.state_dict()
    memory = memory if memory.keys() - saved.keys() else {}
    state = {f"saved/{n}": v.numpy() for n, v in saved.items()}
    state |= {f"memory/{n}": v.numpy() for n, v in memory.items()}
    tokens = out[:, -((SIDE // 8) ** 2) :].numpy()
    return state | {"x": x.numpy(), "tokens": tokens}


def main():
    """Write the vectors of all models."""
    arrays = {
        f"{name}/{key}": value
        for name in MODELS
        for key, value in compute(name).items()
    }
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
