"""Tiny language models and tokenizers of their kinds, as the newer pipelines have them as text encoders."""

from __future__ import annotations

import string
from typing import Any

import torch

SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": 128,
}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\\n' + message['content'] }}"
    "<|im_end|>{% endfor %}"
)
"""A chat template in the manner of Qwen's."""


def qwen3(layers: int) -> torch.nn.Module:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_hidden_layers=layers))


def qwen_tokenizer() -> Any:
    """Make a tokenizer of Qwen whose words are characters, with a chat template."""
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*(chr(code) for code in range(33, 127)), "\u0120", "\u010a", *special]
    return Qwen2Tokenizer(
        vocab={word: row for row, word in enumerate(words)},
        merges=[],
        chat_template=CHAT,
        additional_special_tokens=special[1:],
    )


def mistral3(layers: int) -> torch.nn.Module:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    vision = {
        "model_type": "pixtral",
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "head_dim": 4,
        "image_size": 8,
        "patch_size": 4,
    }
    text = {"model_type": "mistral", **SIZES, "num_hidden_layers": layers}
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))


def mistral_tokenizer() -> Any:
    """Make a tokenizer of letters with Mistral's kind of chat template; it fills up in front.

    FLUX.2 dev has it within a processor of images too, which needs torchvision.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *string.ascii_letters]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    template = (
        "{{ bos_token }}{% for message in messages %}{{ message['content'][0]['text'] }}"
        "{{ eos_token }}{% endfor %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
        padding_side="left",
    )


def qwen2_vl(layers: int = 2) -> torch.nn.Module:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        **{name: value for name, value in SIZES.items() if name != "head_dim"},
        "num_hidden_layers": layers,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 0, 1]},
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "out_hidden_size": 8,
        "patch_size": 4,
        "fullatt_block_indexes": [0],
        "window_size": 8,
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
