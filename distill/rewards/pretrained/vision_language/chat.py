"""Chats of one image and one text, as tokens of a published vision-language model."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.errors import UserError, first_line
from distill.networks.quiet_libraries import quiet_transformers
from distill.rewards.pretrained.tokens import PublishedTokens


class Chat:
    """Turns a text into the tokens of a chat: the user shows an image, says the text, and awaits the answer.

    `template` is the published chat template, and `image` the token that stands for a part of the image.
    `flag` and `source` name the model in messages.
    """

    def __init__(self, tokenizer: Any, template: str, image: int, flag: str, source: str) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.image = image
        self.image_text = tokenizer.convert_ids_to_tokens(image)
        self.flag, self.source = flag, source
        if self.image_text is None or self.render("a").count(self.image_text) != 1:
            raise UserError(f"{flag}: the chat template of {source} is expected to name one image")

    def render(self, text: str) -> str:
        """Return the chat as text, in which one special token stands for the whole image."""
        from jinja2 import TemplateError

        content = [{"type": "image"}, {"type": "text", "text": text}]
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.flag}: the chat template of {self.source} cannot be used ({first_line(error)})"
            ) from error

    def __call__(self, text: str, image_tokens: int) -> Int64[Tensor, "1 n"]:
        """Return the tokens of the chat. The image has `image_tokens` of them."""
        if self.image_text in text:
            raise UserError(f"{self.flag}: a prompt has {self.image_text} in it, which stands for an image")
        chat = self.render(text).replace(self.image_text, self.image_text * image_tokens)
        start = self.tokenizer.bos_token
        # As in transformers' processors: a template that begins with the start token has no second one.
        starts = start is not None and chat.startswith(start)
        tokens = self.tokenizer(chat, add_special_tokens=not starts)["input_ids"]
        return torch.tensor([tokens])

    def token_of(self, answer: str) -> int:
        """Return the one token of an answer."""
        tokens = self.tokenizer.encode(answer, add_special_tokens=False)
        if len(tokens) != 1:
            raise UserError(
                f"{self.flag}: the answer '{answer}' is {len(tokens)} tokens of {self.source}; expected one"
            )
        return tokens[0]

    def sha256(self) -> str:
        """Hash everything that decides the tokens."""
        parts = [PublishedTokens(self.tokenizer).sha256(), self.template, str(self.image)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def open_chat(tokenizer: Any, source: str, image: int, flag: str) -> Chat:
    """Open the chat template of a published model: that of its processor, or of its tokenizer."""
    template = _processors_template(source, flag) or tokenizer.chat_template
    if not isinstance(template, str):
        raise UserError(f"{flag}: {source} has no chat template; expected a model that was tuned for chats")
    return Chat(tokenizer, template, image, flag, source)


def _processors_template(source: str, flag: str) -> Any:
    """Return the chat template in the files of a processor, or None."""
    from transformers.processing_utils import ProcessorMixin

    try:
        with quiet_transformers():
            described, _ = ProcessorMixin.get_processor_dict(source)
    except (OSError, ValueError) as error:
        raise UserError(f"{flag}: {source} cannot be opened ({first_line(error)})") from error
    return described.get("chat_template")
