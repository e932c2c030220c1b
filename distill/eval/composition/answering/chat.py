"""Replies of a chat model of transformers to an image and a text, without sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.data.images import from_bytes
from distill.rewards.pretrained.vision_language.chat import Chat, open_chat
from distill.rewards.pretrained.vision_language.vqascore import Vision, read_vision
from distill.rewards.pretrained.weights import describe_config, open_pretrained, read_pretrained
from distill.storage.tensors import weights_sha256

YES_OR_NO = "{question} Answer yes or no."
READ = (
    "Recognize the text in the image, only reply with the text content, but avoid repeating previously "
    "mentioned content. If no text is recognized, please reply with 'No text recognized'."
)
"""The request of LongText-Bench."""
NOTHING_READ = ("No text recognized.", "No text recognized", "addCriterion")
"""Parts of replies that LongText-Bench removes, the second beside it: some models leave out the full stop."""
ANSWER_TOKENS = 8
READ_TOKENS = 1024


class ChatModel:
    """Replies to an image and a text, one pair at a time: the likeliest token follows each time.

    The network's own generation settings hold otherwise, such as a penalty for repetitions.
    """

    def __init__(self, network: Any, chat: Chat, vision: Vision) -> None:
        self.network = network
        self.chat = chat
        self.vision = vision
        generation = network.generation_config.to_diff_dict()
        generation.pop("transformers_version", None)
        self.identity: dict[str, Any] = {
            "weights_sha256": weights_sha256(network),
            "config": describe_config(network.config),
            "preparation": vision.describe(),
            "chat_sha256": chat.sha256(),
            "generation": generation,
        }

    @torch.inference_mode()
    def reply(self, image: UInt8[Tensor, "3 h w"], text: str, max_tokens: int) -> str:
        """Return the reply to a text about an image, of at most `max_tokens` tokens."""
        device = self.network.device
        size = (image.shape[1], image.shape[2])
        tokens = self.chat(text, self.vision.count_tokens(*size)).to(device)
        pixels = self.vision.prepare(from_bytes(image[None].to(device)))[0].to(self.network.dtype)
        made = self.network.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            **self.vision.arguments(pixels, size, tokens == self.chat.image),
        )
        return self.chat.tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True).strip()


class ChatAnswers:
    """Answers questions with yes or no by a chat model."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.identity: dict[str, Any] = {**model.identity, "request": YES_OR_NO}

    def answer(self, image: UInt8[Tensor, "3 h w"], questions: Sequence[str]) -> list[str]:
        """Return yes, no, or whatever else the reply begins with, for each question."""
        requests = [YES_OR_NO.format(question=question) for question in questions]
        return [first_word(self.model.reply(image, request, ANSWER_TOKENS)) for request in requests]


class ChatReader:
    """Reads the text in an image by a chat model, as LongText-Bench does."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.identity: dict[str, Any] = {**model.identity, "request": READ}

    def read(self, image: UInt8[Tensor, "3 h w"]) -> str:
        """Return the text in an image."""
        reply = self.model.reply(image, READ, READ_TOKENS)
        for part in NOTHING_READ:
            reply = reply.replace(part, "")
        return reply.strip()


def first_word(reply: str) -> str:
    """Return the first word of a reply in lower case, without what is no letter."""
    for word in reply.lower().split():
        letters = "".join(letter for letter in word if letter.isalpha())
        if letters:
            return letters
    return ""


def open_chat_model(config: Any, source: str, flag: str, dtype: torch.dtype) -> ChatModel:
    """Open a chat model of a family that `vqascore` serves, by folder or by name on the hub."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    tokenizer = open_pretrained(AutoTokenizer, source, flag)
    chat = open_chat(tokenizer, source, config.image_token_id, flag)
    vision = read_vision(config, source, flag)
    network = read_pretrained(AutoModelForImageTextToText, source, flag, dtype)
    return ChatModel(network.eval().requires_grad_(False), chat, vision)
