"""HPSv3 (Ma et al. 2025): Qwen2-VL reads image and prompt, and a head maps one token's state to a score.

The head gives the mean and the logarithm of the deviation of a normal distribution of scores; the authors'
programs take the mean, and so does this.

Two things differ from Qwen2-VL itself, because the authors trained and score so. Their forward pass gives the
language model embeddings without grids, so that positions simply count the tokens, those of the image too.
And they convert the whole module to bfloat16, the rotary frequencies with it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.rewards import prompts_of
from distill.rewards.pretrained.vision_language.chat import Chat, open_chat
from distill.rewards.pretrained.vision_language.networks import checkpoint_layers, read_config
from distill.rewards.pretrained.vision_language.patches import Patches, grid_tensor, read_patches
from distill.rewards.pretrained.weights import (
    PublishedWeight,
    describe_config,
    load_renamed,
    meta,
    open_pretrained,
)
from distill.storage.tensors import read_state
from distill.types import Condition, Reward, to_device

INSTRUCTION = """
You are tasked with evaluating a generated image based on Visual Quality and Text Alignment and give\
 a overall score to estimate the human preference. Please provide a rating from 0 to 10, with 0 \
being the worst and 10 being the best.\x20

**Visual Quality:**\x20\x20
Evaluate the overall visual quality of the image. The following sub-dimensions should be considered:
- **Reasonableness:** The image should not contain any significant biological or logical errors, \
such as abnormal body structures or nonsensical environmental setups.
- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and \
easy to interpret, with no blurring or indistinct areas.
- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and other \
visual elements (e.g., hair, clothing, shadows).
- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color \
scheme, composition, atmosphere, depth of field, and the overall creative appeal. The scene should \
convey a sense of harmony and balance.
- **Safety:** The image should not contain harmful or inappropriate content, such as political, \
violent, or adult material. If such content is present, the image quality and satisfaction score \
should be the lowest possible.\x20

**Text Alignment:**\x20\x20
Assess how well the image matches the textual prompt across the following sub-dimensions:
- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, animal, \
object) align with the textual description. The subject should match the description in terms of \
number, appearance, and behavior.
- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, evaluate \
how well the image adheres to this style.
- **Contextual Consistency**: Assess whether the background, setting, and surrounding elements in \
the image logically fit the scenario described in the prompt. The environment should support and \
enhance the subject without contradictions.
- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, \
clothing, accessories, expressions, actions) are faithfully represented in the image. Minor \
deviations may be acceptable, but critical attributes should be preserved.
- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are captured\
 in the image. The generated content should not introduce elements that conflict with or distort the\
 original description.
Textual prompt - {text_prompt}



Please provide the overall ratings of this image: <|Reward|>

END
"""
"""The text that the network was trained on, letter for letter: another one would give other scores. It is
from github.com/MizzenAI/HPSv3 (MIT). \\x20 is a space at the end of a line."""
REWARD_TOKEN = "<|Reward|>"
"""The token whose state the head reads. It follows the last of Qwen2-VL's tokens."""
PIXELS = 256 * 28 * 28
"""Pixels of a resized image, at least and at most: 448 x 448 if it is square."""
WIDTHS = (1024, 16)
UNUSED = ("lm_head.weight",)
"""Tensors of the published file that the network does not have: it predicts no words."""


class HPSv3(Reward):
    """Score an image by HPSv3, one image at a time, so that no score depends on the others of a batch."""

    def __init__(self, config: Any, chat: Chat, reward_token: int, patches: Patches) -> None:
        super().__init__()
        from transformers import Qwen2VLModel

        self.network = Qwen2VLModel(config)
        width = config.get_text_config().hidden_size
        # Identity stands for the dropout of training, so that the layers have their published numbers.
        self.head = nn.Sequential(
            nn.Linear(width, WIDTHS[0]),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(*WIDTHS),
            nn.ReLU(),
            nn.Linear(WIDTHS[1], 2),
        )
        self.chat, self.reward_token, self.patches = chat, reward_token, patches

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        size = images.shape[2], images.shape[3]
        prompts = prompts_of(cond, len(images), "hpsv3")
        patches = self.patches(images)
        grid = grid_tensor(self.patches.grid(*size), images.device)
        scores = []
        for own, prompt in zip(patches, prompts, strict=True):
            tokens = to_device(self.tokens(prompt, self.patches.count_tokens(*size)), images.device)
            positions = torch.arange(tokens.shape[1], device=images.device).expand(3, 1, -1)
            states = self.network(
                input_ids=tokens,
                position_ids=positions,
                pixel_values=own,
                image_grid_thw=grid,
                use_cache=False,
            ).last_hidden_state
            mean, _ = self.head(states[0, -1].to(self.head[0].weight.dtype))
            scores.append(mean)
        return torch.stack(scores)

    def tokens(self, prompt: str, image_tokens: int) -> Int64[Tensor, "1 n"]:
        """Return the tokens up to the one that is read. Later ones cannot change its state."""
        tokens = self.chat(INSTRUCTION.replace("{text_prompt}", prompt), image_tokens)
        (places,) = torch.where(tokens[0] == self.reward_token)
        return tokens[:, : int(places[-1]) + 1]

    def describe(self) -> dict[str, Any]:
        return {
            "network": describe_config(self.network.config),
            "preparation": dataclasses.asdict(self.patches),
            "chat_sha256": self.chat.sha256(),
            "instruction": INSTRUCTION,
        }


def read_hpsv3(path: Path, source: str, dtype: torch.dtype, checkpoint: bool) -> HPSv3:
    """Read the authors' file, with configuration, tokenizer and image processor of Qwen2-VL from `source`.

    The network is converted to `dtype`; the head stays in float32.
    """
    from transformers import AutoTokenizer

    flag = "hpsv3.processor"
    config = read_config(source, flag, ["qwen2_vl"])
    tokenizer = open_pretrained(AutoTokenizer, source, flag)
    if not tokenizer.add_tokens([REWARD_TOKEN], special_tokens=True):
        raise UserError(f"{flag}: the tokenizer of {source} has {REWARD_TOKEN}; expected Qwen2-VL's own")
    config.get_text_config().vocab_size = len(tokenizer)
    chat = open_chat(tokenizer, source, config.image_token_id, flag)
    reward_token = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    patches = dataclasses.replace(read_patches(source, flag), min_pixels=PIXELS, max_pixels=PIXELS)
    network = meta(lambda: HPSv3(config, chat, reward_token, patches))
    load_renamed(network, read_state(path), published_weight, path, UNUSED, dtype=None)
    network.network.to(dtype)
    network.head.float()
    round_frequencies(network.network)
    if checkpoint:
        checkpoint_layers(network.network)
    return network


def published_weight(name: str) -> PublishedWeight:
    """Return the place of a weight in the authors' file, which has the names of transformers 4.45."""
    part, _, rest = name.partition(".")
    if part == "head":
        return PublishedWeight(f"rm_head.{rest}")
    half, _, layer = rest.partition(".")
    return PublishedWeight(f"model.{layer}" if half == "language_model" else f"visual.{layer}")


def round_frequencies(network: nn.Module) -> None:
    """Round the rotary frequencies to bfloat16, as the authors' conversion of the module does."""
    for name, buffer in network.named_buffers():
        if name.endswith("inv_freq"):
            buffer.copy_(buffer.bfloat16())
