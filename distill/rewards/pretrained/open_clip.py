"""open_clip's ViT-H/14 as a `CLIPModel` of transformers: its sizes, and the names of its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.rewards.pretrained.weights import PublishedWeight, load_renamed, meta
from distill.storage.tensors import read_state

WHOLE = {
    "logit_scale": PublishedWeight("logit_scale"),
    "visual_projection.weight": PublishedWeight("visual.proj", transposed=True),
    "text_projection.weight": PublishedWeight("text_projection", transposed=True),
    "vision_model.embeddings.class_embedding": PublishedWeight("visual.class_embedding"),
    "vision_model.embeddings.patch_embedding.weight": PublishedWeight("visual.conv1.weight"),
    "vision_model.embeddings.position_embedding.weight": PublishedWeight("visual.positional_embedding"),
    "text_model.embeddings.token_embedding.weight": PublishedWeight("token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": PublishedWeight("positional_embedding"),
}
"""Weights of a `CLIPModel` outside of blocks and norms."""
NORMS = {
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
    "text_model.final_layer_norm": "ln_final",
}
BLOCKS = {"vision_model": "visual.transformer.resblocks", "text_model": "transformer.resblocks"}
LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
LAYER = re.compile(r"(?P<half>\w+)\.encoder\.layers\.(?P<number>\d+)\.(?P<layer>.+)\.(?P<kind>weight|bias)")


def vit_h_14() -> Any:
    """Return the sizes of ViT-H/14. Its activation is the exact GELU, unlike in OpenAI's networks."""
    from transformers import CLIPConfig

    shared = {"num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 1024}
    text = {
        **shared,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    }
    vision = {
        **shared,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "image_size": 224,
        "patch_size": 14,
    }
    ends = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    return CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=1024)


def read_open_clip(path: Path) -> Any:
    """Read a ViT-H/14 from a file of open_clip's."""
    from transformers import CLIPModel

    return load_renamed(meta(lambda: CLIPModel(vit_h_14())), read_state(path), published_weight, path)


def published_weight(name: str) -> PublishedWeight:
    """Return the place of a `CLIPModel`'s weight in a file of open_clip's.

    Queries, keys and values are thirds of one matrix there.
    """
    if name in WHOLE:
        return WHOLE[name]
    module, _, kind = name.rpartition(".")
    if module in NORMS:
        return PublishedWeight(f"{NORMS[module]}.{kind}")
    found = LAYER.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no weight of a CLIPModel")
    block = f"{BLOCKS[found['half']]}.{found['number']}"
    layer = found["layer"]
    if layer in LAYERS:
        return PublishedWeight(f"{block}.{LAYERS[layer]}.{kind}")
    third = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].index(layer)
    return PublishedWeight(f"{block}.attn.in_proj_{kind}", third)
