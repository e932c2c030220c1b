"""A folder with a tiny random BLIP for questions, and stand-ins for networks that answer and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.helpers.tiny_reward_networks import bert_tokenizer, disturbed

SIDE = 32
"""Pixels that BLIP sees."""
CHANNELS = {"red": 0, "green": 1, "blue": 2}


def blip(folder: Path) -> Path:
    """Write a `BlipForQuestionAnswering` with its tokenizer and image processor."""
    from transformers import AutoTokenizer, BlipConfig, BlipForQuestionAnswering, BlipImageProcessorPil

    bert_tokenizer(folder)
    words = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {
        "bos_token_id": words.cls_token_id,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.sep_token_id,
        "sep_token_id": words.sep_token_id,
    }
    sizes = {"hidden_size": 16, "encoder_hidden_size": 16, "vocab_size": len(words), "projection_dim": 12}
    text = {**shared, **ends, **sizes, "max_position_embeddings": 64}
    vision = {**shared, "hidden_size": 16, "image_size": SIDE, "patch_size": 8}
    network = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision, projection_dim=12))
    for parameter in disturbed(network).text_decoder.parameters():
        if parameter.dim() > 1:
            parameter.data *= 2.5  # answers then depend on question and image
    network.save_pretrained(folder)
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def got_ocr(folder: Path) -> Path:
    """Write a `GotOcr2ForConditionalGeneration` with tokenizer and image processor: 256 tokens an image."""
    from transformers import (
        GotOcr2Config,
        GotOcr2ForConditionalGeneration,
        GotOcr2ImageProcessorPil,
        GotOcr2VisionConfig,
        Qwen2Config,
        Qwen2Tokenizer,
    )

    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"]
    characters = [*(chr(code) for code in range(33, 127)), "\u0120", "\u010a"]
    vocabulary = {word: row for row, word in enumerate([*characters, *marks])}
    words = Qwen2Tokenizer(vocab=vocabulary, merges=[], additional_special_tokens=marks[1:])
    words.save_pretrained(folder)
    vision = GotOcr2VisionConfig(
        hidden_size=8,
        output_channels=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=256,
        patch_size=4,
        global_attn_indexes=[],
        mlp_dim=16,
    )
    text = Qwen2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=len(words),
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    config = GotOcr2Config(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<imgpad>")
    )
    disturbed(GotOcr2ForConditionalGeneration(config)).save_pretrained(folder)
    GotOcr2ImageProcessorPil(size={"height": 256, "width": 256}).save_pretrained(folder)
    return folder


class ColorAnswerer:
    """Answers whether any pixel has the colour that a question names; counts the images."""

    def __init__(self) -> None:
        self.calls = 0
        self.identity: dict[str, object] = {"stand-in": "colours"}

    def answer(self, image: Tensor, questions: Sequence[str]) -> list[str]:
        self.calls += 1
        return ["yes" if self._shows(image, question) else "no" for question in questions]

    def _shows(self, image: Tensor, question: str) -> bool:
        (channel,) = [number for name, number in CHANNELS.items() if name in question]
        others = [number for number in range(3) if number != channel]
        pure = (image[channel] > 150) & (image[others] < 100).all(0)
        return bool(pure.any())
