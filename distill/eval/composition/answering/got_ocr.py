"""Text read by GOT-OCR 2 (Wei et al. 2024), such as `stepfun-ai/GOT-OCR-2.0-hf`."""

from __future__ import annotations

import json
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.data.images import to_pil
from distill.rewards.pretrained.tokens import PublishedTokens
from distill.rewards.pretrained.weights import describe_config, open_pretrained, read_pretrained
from distill.storage.tensors import weights_sha256

READ_TOKENS = 1024
END = "<|im_end|>"
PREPARATION = ("size", "resample", "image_mean", "image_std", "rescale_factor", "crop_to_patches")
"""Settings of the image processor that decide what the network sees."""


class GotReader:
    """Reads the text in an image by a `GotOcr2ForConditionalGeneration`, without sampling."""

    def __init__(self, network: Any, processor: Any) -> None:
        self.network = network
        self.processor = processor
        prepared = json.loads(processor.image_processor.to_json_string())
        self.identity: dict[str, Any] = {
            "weights_sha256": weights_sha256(network),
            "config": describe_config(network.config),
            "preparation": {name: prepared.get(name) for name in PREPARATION},
            "tokenizer_sha256": PublishedTokens(processor.tokenizer).sha256(),
        }

    @torch.inference_mode()
    def read(self, image: UInt8[Tensor, "3 h w"]) -> str:
        """Return the text in an image."""
        inputs = self.processor(to_pil(image), return_tensors="pt").to(
            self.network.device, self.network.dtype
        )
        made = self.network.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            tokenizer=self.processor.tokenizer,
            stop_strings=END,
            max_new_tokens=READ_TOKENS,
        )
        reply = made[0, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(reply, skip_special_tokens=True).strip()


def open_got(source: str, flag: str, dtype: torch.dtype) -> GotReader:
    """Open GOT-OCR 2 by folder or by name on the hub, with the image processor of Pillow."""
    import transformers

    kind = getattr(transformers, "GotOcr2ImageProcessorPil", None) or transformers.GotOcr2ImageProcessor
    images = open_pretrained(kind, source, flag)
    tokenizer = open_pretrained(transformers.AutoTokenizer, source, flag)
    network = read_pretrained(transformers.GotOcr2ForConditionalGeneration, source, flag, dtype)
    processor = transformers.GotOcr2Processor(images, tokenizer)
    return GotReader(network.eval().requires_grad_(False), processor)
