"""Conversion of ViT weights from Hugging Face's layouts to the names that timm reads.

ViT, Dinov2, Dinov2WithRegisters and DINOv3ViT are recognized by the names of their
tensors, with any prefix. Other layouts, such as timm's and the authors' own, are kept.
"""

import re
from collections.abc import Mapping

import torch

# Without `projection` in DINOv3.
_PATCHES = re.compile(r"(.*)embeddings\.patch_embeddings\.(?:projection\.)?weight")
# transformers 5 uses `layers` in memory, but not in files.
_LAYER = re.compile(r"(?:encoder\.|model\.)?layers?\.(\d+)\.(.+)")
_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "embeddings.patch_embeddings.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
# Modules of a layer, without `.weight` or `.bias`.
_PARTS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}
# Gated MLPs: gate, value and output; timm packs the first two except for DINOv3.
_GATED = {"mlp.gate_proj": "mlp.w1", "mlp.up_proj": "mlp.w2", "mlp.down_proj": "mlp.w3"}
_PACKED = {"mlp.gate_proj": 0, "mlp.up_proj": 1}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
# Queries, keys and values, which timm packs.
_QKV = {"attention.attention.query": 0, "attention.attention.key": 1}
_QKV |= {"attention.attention.value": 2}
_QKV |= {"attention.q_proj": 0, "attention.k_proj": 1, "attention.v_proj": 2}
# Prefixes of tensors that follow from the image size or are used only in training.
_IGNORED = ("embeddings.mask_token", "rope_embeddings.inv_freq")
_IGNORED += ("classifier.", "pooler.")


def to_timm(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under the names that timm reads.

    Args:
      state: Tensors by name, in any layout.

    Returns:
      The renamed tensors of a Hugging Face model without the prefix and heads, with
      unknown names kept. Other layouts are returned unchanged.
    """
    starts = [found for name in state if (found := _PATCHES.fullmatch(name))]
    if len(starts) != 1:
        return dict(state)
    prefix = starts[0][1]
    mine = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix)
    }
    is_gated = any(".mlp.gate_proj." in name for name in mine)
    is_dinov3 = "embeddings.position_embeddings" not in mine
    parts = _PARTS | (_GATED if is_gated and is_dinov3 else {})
    packed = _PACKED if is_gated and not is_dinov3 else {}
    renamed, joined = {}, {}
    for name, value in mine.items():
        layer = _LAYER.fullmatch(name)
        if layer is None:
            if not name.startswith(_IGNORED):
                renamed[_NAMES.get(name, name)] = value
            continue
        block, inner = f"blocks.{layer[1]}.", layer[2]
        part, _, kind = inner.rpartition(".")
        if inner in _SCALES:
            renamed[block + _SCALES[inner]] = value
        elif part in _QKV:
            name = f"{block}attn.qkv.{kind}"
            joined.setdefault(name, [None] * 3)[_QKV[part]] = value
        elif part in packed:
            name = f"{block}mlp.fc1.{kind}"
            joined.setdefault(name, [None] * 2)[packed[part]] = value
        else:
            renamed[f"{block}{parts.get(part, part)}.{kind}"] = value
    for name, values in joined.items():
        # DINOv3's keys have no bias.
        like = next(value for value in values if value is not None)
        values = [torch.zeros_like(like) if v is None else v for v in values]
        renamed[name] = torch.cat(values)
    return _with_registers(renamed)


def _with_registers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    registers = state.pop("embeddings.register_tokens", None)
    if registers is None:
        return state
    if "pos_embed" not in state:
        # DINOv3; timm expects this name.
        return state | {"storage_tokens": registers}
    # timm's model has no position embedding of the class token.
    position = state["pos_embed"]
    return state | {
        "reg_token": registers,
        "cls_token": state["cls_token"] + position[:, :1],
        "pos_embed": position[:, 1:],
    }
