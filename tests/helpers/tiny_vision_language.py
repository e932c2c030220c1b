"""Folders of tiny random vision-language models of transformers, with tokenizers and image processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tests.helpers.tiny_reward_networks import disturbed

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT = (
    "{% for message in messages %}{% if loop.first %}<|im_start|>system\nYou are a helpful assistant."
    "<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-VL's chat template for chats of images and texts."""
LLAVA_CHAT = (
    "{% for message in messages %}USER: {% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|image_pad|>\n{% else %}{{ content['text'] }} {% endif %}"
    "{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
PIXELS = (512, 2048)
"""Least and most pixels of a resized image."""


def tokenizer(template: str | None = CHAT) -> Any:
    """Make a tokenizer of Qwen whose words are characters and "Yes"."""
    from transformers import Qwen2Tokenizer

    characters = [*(chr(code) for code in range(33, 127)), "\u0120", "\u010a"]
    words = [*characters, "Ye", "Yes", *SPECIAL]
    return Qwen2Tokenizer(
        vocab={word: row for row, word in enumerate(words)},
        merges=[("Y", "e"), ("Ye", "s")],
        chat_template=template,
        additional_special_tokens=list(SPECIAL[1:]),
    )


def ids(words: Any) -> dict[str, int]:
    """Return the special tokens of a configuration."""
    names = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 3, "vision_end_token_id": 4}
    return {name: words.convert_tokens_to_ids(SPECIAL[row]) for name, row in names.items()}


def text_sizes(words: Any) -> dict[str, Any]:
    """Return the sizes of a language model with rotary positions in three parts."""
    return {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": len(words),
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }


def qwen2_vl_config() -> Any:
    from transformers import Qwen2VLConfig

    words = tokenizer()
    vision = {
        "depth": 2,
        "embed_dim": 16,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": 16,
        "patch_size": 4,
    }
    return Qwen2VLConfig(
        text_config=text_sizes(words), vision_config=vision, tie_word_embeddings=False, **ids(words)
    )


def qwen2_5_vl_config() -> Any:
    from transformers import Qwen2_5_VLConfig

    words = tokenizer()
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "out_hidden_size": 16,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(
        text_config=text_sizes(words), vision_config=vision, tie_word_embeddings=False, **ids(words)
    )


def qwen3_vl_config() -> Any:
    from transformers import Qwen3VLConfig

    words = tokenizer()
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 24,
        "out_hidden_size": 16,
        "patch_size": 4,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLConfig(
        text_config=text_sizes(words), vision_config=vision, tie_word_embeddings=False, **ids(words)
    )


def llava_config() -> Any:
    from transformers import LlavaConfig

    words = tokenizer()
    sizes = {name: value for name, value in text_sizes(words).items() if name != "rope_parameters"}
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 24,
        "patch_size": 8,
    }
    return LlavaConfig(
        text_config={"model_type": "llama", **sizes},
        vision_config=vision,
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
    )


CONFIGS = {
    "qwen2_vl": qwen2_vl_config,
    "qwen2_5_vl": qwen2_5_vl_config,
    "qwen3_vl": qwen3_vl_config,
    "llava": llava_config,
}


def processor_folder(folder: Path, family: str) -> Path:
    """Write configuration, tokenizer, chat template and image processor of a family."""
    from transformers import CLIPImageProcessorPil, Qwen2VLImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    CONFIGS[family]().save_pretrained(folder)
    if family == "llava":
        tokenizer(LLAVA_CHAT).save_pretrained(folder)
        CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24).save_pretrained(folder)
        return folder
    tokenizer().save_pretrained(folder)
    least, most = PIXELS
    Qwen2VLImageProcessorPil(min_pixels=least, max_pixels=most, patch_size=4).save_pretrained(folder)
    return folder


def chat_model(folder: Path, family: str) -> Path:
    """Write a tiny chat model with everything that it is opened with."""
    from transformers import AutoModelForImageTextToText

    processor_folder(folder, family)
    torch.manual_seed(0)
    disturbed(AutoModelForImageTextToText.from_config(CONFIGS[family]())).save_pretrained(folder)
    return folder


def without_videos(family: str) -> Any:
    """Return the processor of a family of Qwen's, without its videos, which need torchvision."""
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    kinds = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}

    class WithoutVideos(kinds[family]):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    return WithoutVideos


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Turn bytes (b, 3, h, w) into Pillow images."""
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]


def chats(prompts: list[str]) -> list[list[dict[str, Any]]]:
    """Return chats of one image and one text as transformers' processors take them."""
    return [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        for prompt in prompts
    ]
