"""Training of a small `CLIPModel` of transformers from scratch on captioned images."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from distill.config.progress import track
from distill.networks.folder import WEIGHTS
from distill.rewards.pretrained.contrastive.augmentation import augment
from distill.rewards.pretrained.contrastive.loss import false_negatives, finite_loss
from distill.rewards.pretrained.contrastive.sources import (
    CaptionedSource,
    batches,
    draw_captions,
    read_images,
)
from distill.rewards.pretrained.contrastive.tokenizer import MAX_TOKENS, train_tokenizer
from distill.storage.files import write_json
from distill.storage.tensors import save_tensors
from distill.types import DataSource

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

MADE = "made.json"
"""File beside the weights that says how they were made."""
HEAD_WIDTH = 32
"""Width of one head of attention."""
MAX_LOGIT_SCALE = math.log(100)
"""Maximum of the logarithm of the inverse temperature, as in CLIP."""
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises from 0; it then falls to 0 along a cosine."""
WEIGHT_DECAY = 0.1
WORD_DROPOUT = 0.05
"""Share of the words of a caption that are left out in training."""
MAX_GRADIENT_NORM = 1.0
STATISTICS_IMAGES = 4096
"""Maximum number of images whose mean and deviation the image processor gets."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Sizes of a CLIP network and settings of its training."""

    steps: int = 1500
    seed: int = 0
    batch_size: int = 64
    width: int = 128
    image_layers: int = 4
    text_layers: int = 2
    patch: int = 8
    vocabulary: int = 1536
    learning_rate: float = 1.5e-3


class TrainedClip(nn.Module):
    """A CLIP network with its tokenizer and the statistics that its images are normalised by."""

    def __init__(
        self, network: CLIPModel, tokenizer: CLIPTokenizer, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.mean, self.deviation = tuple(mean), tuple(deviation)

    def embed_images(self, images: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Map images in [-1, 1] of the network's resolution to unit vectors."""
        mean = images.new_tensor(self.mean)[:, None, None]
        deviation = images.new_tensor(self.deviation)[:, None, None]
        pixels = ((images + 1) / 2 - mean) / deviation
        return normalize(
            self.network.visual_projection(self.network.vision_model(pixels).pooler_output), dim=1
        )

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Map texts to unit vectors."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        features = self.network.text_model(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        return normalize(self.network.text_projection(features), dim=1)

    def save(self, folder: Path, made: dict[str, Any]) -> None:
        """Write the files that transformers opens into an existing folder, and `made` beside them.

        The weights stay in float32: transformers would open the text tower of a file in half precision in it.
        """
        import transformers

        # transformers 5 names the processor that needs no torchvision, which writes the same file.
        kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        side = self.network.config.vision_config.image_size
        processor = kind(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_mean=self.mean,
            image_std=self.deviation,
        )
        self.network.config.save_pretrained(folder)
        save_tensors(folder / WEIGHTS, self.network.state_dict(), metadata={"format": "pt"})
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(folder)
        self.tokenizer.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
        processor.save_pretrained(folder)
        write_json(folder / MADE, made)


def build(recipe: Recipe, resolution: int, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Build a network with random weights for images of this resolution."""
    from transformers import CLIPConfig, CLIPModel

    tower = {
        "hidden_size": recipe.width,
        "intermediate_size": 4 * recipe.width,
        "num_attention_heads": recipe.width // HEAD_WIDTH,
        "projection_dim": recipe.width,
    }
    text = {
        **tower,
        "num_hidden_layers": recipe.text_layers,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        **tower,
        "num_hidden_layers": recipe.image_layers,
        "image_size": resolution,
        "patch_size": recipe.patch,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.width)
    config.architectures, config.dtype = ["CLIPModel"], "float32"
    return CLIPModel(config)


def train_clip(data: CaptionedSource, recipe: Recipe) -> TrainedClip:
    """Train a CLIP network on captioned images; the same on the same machine.

    It comes in evaluation mode and frozen.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        tokenizer = train_tokenizer(data.captions.texts, recipe.vocabulary)
        clip = TrainedClip(build(recipe, data.image_shape[1], tokenizer), tokenizer, *_statistics(data))
        _fit(clip, data, recipe)
    return clip.eval().requires_grad_(False)


def _fit(clip: TrainedClip, data: CaptionedSource, recipe: Recipe) -> None:
    """Train a network in place by AdamW."""
    chooser = random.Random(recipe.seed)
    optimizer = torch.optim.AdamW(_groups(clip), lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe.steps))
    scale = clip.network.logit_scale
    rows_of_batches = batches(len(data), recipe.batch_size)
    for step in track(range(recipe.steps), "train-clip", leave=True):
        rows = next(rows_of_batches)
        captions = [data.captions.of_images[row] for row in rows]
        texts = draw_captions(captions, chooser, WORD_DROPOUT)
        images = augment(read_images(data, rows))
        logits = scale.exp() * clip.embed_images(images) @ clip.embed_texts(texts).T
        optimizer.zero_grad()
        finite_loss(logits, false_negatives(texts, captions), step).backward()
        nn.utils.clip_grad_norm_(clip.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            scale.clamp_(max=MAX_LOGIT_SCALE)


def _groups(clip: TrainedClip) -> list[dict[str, Any]]:
    """Return the parameters with weight decay, which are matrices, and those without."""
    matrices = [parameter for parameter in clip.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in clip.parameters() if parameter.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate in a step."""
    warm_up = max(int(WARM_UP * steps), 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1))


def _statistics(data: DataSource) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel, of images in [0, 1]."""
    images = (read_images(data, range(min(len(data), STATISTICS_IMAGES))).double() + 1) / 2
    rounded = [
        [round(number, 4) for number in values.tolist()]
        for values in (images.mean((0, 2, 3)), images.std((0, 2, 3)))
    ]
    return rounded[0], rounded[1]
