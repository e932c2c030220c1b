"""The text encoders of a diffusers pipeline."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.networks.diffusers.families import Family
from distill.networks.identity import part_sha256
from distill.types import Condition, Text

CLIP_TOKENS = 77
"""Tokens of a prompt in CLIP, where the pipeline has no tokenizer that says so."""


class PipelinePromptEncoder:
    """Encodes prompts by the pipeline's own `encode_prompt`, with all of its text encoders."""

    def __init__(self, pipe: Any, family: Family) -> None:
        self.pipe, self.family = pipe, family
        self.config: Any = getattr(pipe, family.part).config
        self._nothing: dict[str, Tensor] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PipelinePromptEncoder:
        """Copies of a network share their text encoders."""
        return self

    def encode(self, prompts: Sequence[str]) -> Condition:
        """Encode prompts, and the pipeline's unconditional prompt, in float32."""
        encoded = self._encode(prompts)
        given = {name: value for name, value in encoded.items() if not name.startswith("no ")}
        self._check_widths(given)
        if "no tokens" in encoded:
            unconditional = {name: encoded[f"no {name}"][:1] for name in given}
        else:
            unconditional = self._encode_nothing()
        return Condition(text=Text(given, unconditional))

    def _encode_nothing(self) -> dict[str, Tensor]:
        """Encode no prompt, once for all calls."""
        if self._nothing is None:
            self._nothing = self._encode([""])
        return {name: value.to(self._device()) for name, value in self._nothing.items()}

    def _check_widths(self, given: dict[str, Tensor]) -> None:
        """Check that embeddings have the network's width: a missing text encoder makes them narrower."""
        for name, shape in self.shapes().items():
            if name.startswith("mask") or name not in given:
                continue
            found, expected = given[name].shape[-1], shape[-1]
            if found != expected:
                raise UserError(
                    f"teacher.path: its text encoders give {name} of {found} numbers; expected {expected}: "
                    "a text encoder is missing, or belongs to another network"
                )

    def unconditional(self, count: int) -> Text:
        """Encode no prompt, (count, ...)."""
        text = self.encode([""] * count).text
        assert text is not None
        return text.drop(torch.ones(count, dtype=torch.bool, device=text.device))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one encoded prompt, as the network's configuration gives them.

        They hold as many tokens as CLIP's tokenizer says, and as many of T5's or Gemma's as the pipeline asks
        for.
        """
        if self.family.text_shapes is not None:
            return self.family.text_shapes(self.pipe, encoding_settings(self.pipe))
        config = self.config
        tokens = encoding_settings(self.pipe).get("max_sequence_length", 0)
        names = ("encoder_hid_dim", "caption_channels", "joint_attention_dim", "cross_attention_dim")
        width = next(config[name] for name in names if config.get(name))
        pooled = config.get("pooled_projection_dim") or 0
        if config.get("addition_embed_type"):
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        has_clip_tokens = "mask" not in self.family.encoded and self.family.packing == 1
        if has_clip_tokens and not config.get(
            "encoder_hid_dim"
        ):  # SD 3, whose T5's tokens follow, and U-Nets
            tokens += self._clip_tokens()
        shapes = {"tokens": (tokens, width), "mask": (tokens,), "pooled": (pooled,)}
        return {name: shape for name, shape in shapes.items() if name in self.family.encoded and all(shape)}

    def _clip_tokens(self) -> int:
        """Return the number of tokens to which CLIP's tokenizer fills prompts up."""
        tokenizer = self.pipe.components.get("tokenizer")
        return CLIP_TOKENS if tokenizer is None else tokenizer.model_max_length

    def sha256(self) -> str:
        """Hash everything but the prompt that an encoded prompt depends on.

        These are the encoders' weights and settings, the tokenizers' words and rules, and the pipeline's
        class and defaults.
        """
        pipe = self.pipe
        zeros = pipe.config.get("force_zeros_for_empty_prompt")
        digest = hashlib.sha256(f"{type(pipe).__name__} {zeros} {encoding_settings(self.pipe)}".encode())
        for name, part in sorted(pipe.components.items()):
            if name.startswith(("tokenizer", "text_encoder")) and part is not None:
                digest.update(f"{name} {part_sha256(part)}".encode())
        return digest.hexdigest()

    def components(self) -> dict[str, nn.Module]:
        return {
            name: part
            for name, part in self.pipe.components.items()
            if name.startswith("text_encoder") and isinstance(part, nn.Module)
        }

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return what the pipeline's `encode_prompt` returns, under our names and in float32."""
        arguments = {**encoding_settings(self.pipe), "prompt": list(prompts), "device": self._device()}
        try:
            if self.family.encode is None:
                encoded = self.pipe.encode_prompt(**arguments)
            else:
                encoded = self.family.encode(self.pipe, arguments)
        except (TypeError, AttributeError) as error:  # at a part that is None
            if not self._missing():
                raise
            raise UserError(self._without_encoders()) from error
        named = dict(zip(self.family.encoded, encoded, strict=False))
        named.pop("", None)
        if self.family.text_shapes is None:
            return {name: _in_float32(value) for name, value in named.items()}
        shapes = self.family.text_shapes(self.pipe, encoding_settings(self.pipe))
        return {
            name: _filled_up(_in_float32(value), shapes[name.removeprefix("no ")])
            for name, value in named.items()
        }

    def _device(self) -> torch.device:
        encoders = list(self.components().values())
        if not encoders:
            raise UserError(self._without_encoders())
        return next(encoders[0].parameters()).device

    def _missing(self) -> list[str]:
        """Return the names of the text encoders that the pipeline was saved without."""
        return [
            name for name, part in self.pipe.components.items() if part is None and "text_encoder" in name
        ]

    def _without_encoders(self) -> str:
        return (
            f"teacher.path: {type(self.pipe).__name__} was saved without {' and '.join(self._missing())}; "
            "expected them, since it encodes no prompts without"
        )


def describe_encoding(pipe: Any) -> dict[str, Any]:
    """Return how a pipeline encodes prompts, apart from its text encoders and tokenizers."""
    return {
        "pipeline": type(pipe).__name__,
        "force_zeros": pipe.config.get("force_zeros_for_empty_prompt"),
        "settings": str(encoding_settings(pipe)),
    }


def encoding_settings(pipe: Any) -> dict[str, Any]:
    """Return the other arguments of `encode_prompt`: the defaults of a guided call of the pipeline."""
    from diffusers.utils import is_bs4_available, is_ftfy_available

    own = inspect.signature(pipe.encode_prompt).parameters
    call = inspect.signature(type(pipe).__call__).parameters
    settings = {name: call[name].default for name in own if name in call}
    if "do_classifier_free_guidance" in own:
        settings["do_classifier_free_guidance"] = True
    if settings.get("clean_caption"):  # as the pipeline does it, without its warning at each prompt
        settings["clean_caption"] = is_bs4_available() and is_ftfy_available()
    return settings


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _filled_up(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Fill tokens or their mask, (b, n, ...), up with zeros to (b, *shape)."""
    missing = shape[0] - value.shape[1]
    return torch.cat([value, value.new_zeros(len(value), missing, *value.shape[2:])], 1)
