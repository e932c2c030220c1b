"""VQAScore (Lin et al. 2024): the probability that a vision-language model says that an image shows a text.

The paper's P("Yes" | image, question), with the probability over the whole vocabulary, on chat models of
transformers whose preprocessing of images is differentiable here.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.rewards import prompts_of
from distill.rewards.pretrained.preprocessing import Preprocessing, read_preprocessing
from distill.rewards.pretrained.vision_language.chat import Chat, open_chat
from distill.rewards.pretrained.vision_language.networks import checkpoint_layers, read_config
from distill.rewards.pretrained.vision_language.patches import Patches, grid_tensor, read_patches
from distill.rewards.pretrained.weights import describe_config, open_pretrained, read_pretrained
from distill.types import Condition, Reward, to_device

FAMILIES = ("llava", "qwen2_5_vl", "qwen2_vl", "qwen3_vl")
"""Families of transformers that are served."""
Scale = Literal["probability", "log"]


@runtime_checkable
class Vision(Protocol):
    """Prepares images for one family of vision-language models."""

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Return what the network reads of each image, differentiable in the images."""
        ...

    def count_tokens(self, height: int, width: int) -> int:
        """Return the number of tokens that an image becomes."""
        ...

    def arguments(self, pixels: Tensor, size: tuple[int, int], is_image: Tensor) -> dict[str, Any]:
        """Return the network's arguments for one prepared image.

        `size` is the (height, width) of the image, and `is_image` marks its tokens, (1, n).
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the preparation as plain data."""
        ...


@dataclasses.dataclass(frozen=True)
class QwenVision:
    """Patches of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, with the grid by which the networks place them."""

    patches: Patches

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return self.patches(images)

    def count_tokens(self, height: int, width: int) -> int:
        return self.patches.count_tokens(height, width)

    def arguments(self, pixels: Tensor, size: tuple[int, int], is_image: Tensor) -> dict[str, Any]:
        grid = grid_tensor(self.patches.grid(*size), pixels.device)
        return {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": is_image.int()}

    def describe(self) -> dict[str, Any]:
        return dataclasses.asdict(self.patches)


@dataclasses.dataclass(frozen=True)
class LlavaVision:
    """Images of one size, of `tokens` tokens each, for LLaVA."""

    preprocessing: Preprocessing
    tokens: int

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 s t"]:
        return self.preprocessing(images)

    def count_tokens(self, height: int, width: int) -> int:
        return self.tokens

    def arguments(self, pixels: Tensor, size: tuple[int, int], is_image: Tensor) -> dict[str, Any]:
        return {"pixel_values": pixels[None]}

    def describe(self) -> dict[str, Any]:
        return dataclasses.asdict(self.preprocessing)


class VQAScore(Reward):
    """Score an image by the probability of one answer, one image at a time, so that batches do not matter.

    `question` has {} in place of the prompt. `scale` "log" gives the natural logarithm of the probability.
    """

    def __init__(
        self, network: Any, chat: Chat, vision: Vision, question: str, answer: str, scale: Scale
    ) -> None:
        super().__init__()
        self.network, self.chat, self.vision = network, chat, vision
        self.question, self.answer, self.scale = question, chat.token_of(answer), scale

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        prompts = prompts_of(cond, len(images), "vqascore")
        size = images.shape[2], images.shape[3]
        scores = []
        for pixels, prompt in zip(self.vision.prepare(images), prompts, strict=True):
            tokens = self.tokens(prompt, size)
            arguments = self.vision.arguments(
                pixels, size, to_device(tokens == self.chat.image, images.device)
            )
            logits = self.network(
                input_ids=to_device(tokens, images.device), use_cache=False, logits_to_keep=1, **arguments
            ).logits[0, -1]
            exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
            scores.append(exact.log_softmax(0)[self.answer])
        found = torch.stack(scores)
        return found if self.scale == "log" else found.exp()

    def tokens(self, prompt: str, size: tuple[int, int]) -> Int64[Tensor, "1 n"]:
        """Return the tokens of the question about an image of (height, width) `size`."""
        return self.chat(self.question.replace("{}", prompt), self.vision.count_tokens(*size))

    def describe(self) -> dict[str, Any]:
        return {
            "network": describe_config(self.network.config),
            "preparation": self.vision.describe(),
            "chat_sha256": self.chat.sha256(),
        }


def read_vqascore(
    source: str, question: str, answer: str, scale: Scale, dtype: torch.dtype, checkpoint: bool
) -> VQAScore:
    """Open a chat model of transformers in `dtype`."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    flag = "vqascore.path"
    config = read_config(source, flag, FAMILIES)
    chat = open_chat(open_pretrained(AutoTokenizer, source, flag), source, config.image_token_id, flag)
    vision = read_vision(config, source, flag)
    build = functools.partial(VQAScore, chat=chat, vision=vision, question=question, scale=scale)
    chat.token_of(answer)  # before the weights are read
    network = read_pretrained(AutoModelForImageTextToText, source, flag, dtype)
    if checkpoint:
        checkpoint_layers(network)
    return build(network, answer=answer)


def read_vision(config: Any, source: str, flag: str) -> Vision:
    """Read the preprocessing of a published model by its family."""
    if config.model_type != "llava":
        return QwenVision(read_patches(source, flag))
    preprocessing = read_preprocessing(source, flag)
    side = config.vision_config.image_size
    if preprocessing.size != (side, side):
        raise UserError(
            f"{flag}: the image processor of {source} gives {preprocessing.size}; expected {(side, side)}"
        )
    patches = (side // config.vision_config.patch_size) ** 2
    has_class = config.vision_config.model_type == "clip_vision_model"
    keeps_class = has_class and config.vision_feature_select_strategy == "full"
    return LlavaVision(preprocessing, patches + keeps_class)
