"""Answers of BLIP (Li et al. 2022), fine-tuned for questions, such as `Salesforce/blip-vqa-base`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.data.images import from_bytes
from distill.rewards.pretrained.preprocessing import Preprocessing, read_preprocessing
from distill.rewards.pretrained.tokens import PublishedTokens
from distill.rewards.pretrained.weights import describe_config, open_pretrained, read_pretrained
from distill.storage.tensors import weights_sha256

ANSWER_TOKENS = 20
"""Maximum number of tokens of an answer, as transformers' default."""


class BlipAnswers:
    """Answers questions by a `BlipForQuestionAnswering`, each by itself: padding would change the answers.

    The image is embedded once for all its questions.
    """

    def __init__(self, network: Any, tokens: PublishedTokens, preprocessing: Preprocessing) -> None:
        self.network = network
        self.tokens = tokens
        self.preprocessing = preprocessing
        self.max_tokens = network.config.text_config.max_position_embeddings
        self.identity: dict[str, Any] = {
            "weights_sha256": weights_sha256(network),
            "config": describe_config(network.config),
            "preparation": dataclasses.asdict(preprocessing),
            "tokenizer_sha256": tokens.sha256(),
        }

    @torch.inference_mode()
    def answer(self, image: UInt8[Tensor, "3 h w"], questions: Sequence[str]) -> list[str]:
        """Return the likeliest answer to each question, in lower case."""
        device = self.network.device
        pixels = self.preprocessing(from_bytes(image[None].to(device))).to(self.network.dtype)
        seen = self.network.vision_model(pixel_values=pixels).last_hidden_state
        return [self._answer(seen, question) for question in questions]

    def _answer(self, seen: Tensor, question: str) -> str:
        """Answer a question about an image, whose embedding is `seen`, (1, patches, d)."""
        tokens, mask = (value.to(seen.device) for value in self.tokens([question], self.max_tokens))
        asked = self.network.text_encoder(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        text = self.network.config.text_config
        made = self.network.text_decoder.generate(
            input_ids=torch.full((1, 1), self.network.decoder_start_token_id, device=seen.device),
            encoder_hidden_states=asked,
            encoder_attention_mask=torch.ones_like(tokens),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            max_length=ANSWER_TOKENS,
            do_sample=False,
            num_beams=1,
        )
        return self.tokens.tokenizer.decode(made[0], skip_special_tokens=True).strip().lower()


def open_blip(source: str, flag: str, dtype: torch.dtype) -> BlipAnswers:
    """Open BLIP by folder or by name on the hub."""
    from transformers import AutoTokenizer, BlipForQuestionAnswering

    tokens = PublishedTokens(open_pretrained(AutoTokenizer, source, flag))
    preprocessing = read_preprocessing(source, flag)
    network = read_pretrained(BlipForQuestionAnswering, source, flag, dtype)
    return BlipAnswers(network.eval().requires_grad_(False), tokens, preprocessing)
