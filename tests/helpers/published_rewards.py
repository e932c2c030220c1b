"""The networks of published rewards as their authors wrote them, in plain torch, at any size.

Weights have their published names. Our rewards are compared with these networks, whose state dicts stand for
the published files.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

MEAN, DEVIATION = (
    torch.tensor([0.48145466, 0.4578275, 0.40821073]),
    torch.tensor([0.26862954, 0.26130258, 0.27577711]),
)


def to_image(pixels: Tensor) -> Image.Image:
    """Turn bytes (3, h, w) into a Pillow image."""
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def normalised(image: Image.Image) -> Tensor:
    """Apply torchvision's `ToTensor` and `Normalize` with CLIP's numbers."""
    return ((torch.from_numpy(np.array(image)).float() / 255 - MEAN) / DEVIATION).permute(2, 0, 1)


def crop(image: Image.Image, size: int) -> Tensor:
    """Apply OpenAI's preprocessing: resize the shorter edge to `size`, crop the middle, normalise."""
    width, height = image.size
    long = int(size * max(width, height) / min(width, height))
    image = image.resize((size, long) if width <= height else (long, size), Image.Resampling.BICUBIC)
    left, top = (round((length - size) / 2.0) for length in image.size)
    return normalised(image.crop((left, top, left + size, top + size)))


def letterboxed(image: Image.Image, size: int, antialias: bool) -> Tensor:
    """Apply hpsv2's preprocessing: resize a tensor's longer edge to `size`, add black, normalise.

    torchvision's `resize` of a float tensor is torch's `interpolate`, with `antialias` since torchvision 0.17
    and without before.
    """
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    scale = size / float(max(image.size))
    height, width = (round(length * scale) for length in pixels.shape[2:])
    pixels = F.interpolate(pixels, (height, width), mode="bicubic", align_corners=False, antialias=antialias)
    canvas = torch.zeros(3, size, size)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[:, top : top + height, left : left + width] = pixels[0]
    return (canvas - MEAN[:, None, None]) / DEVIATION[:, None, None]


class Block(nn.Module):
    """The residual attention block of open_clip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, size: int, patch: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.positional_embedding = nn.Parameter(
            torch.randn((size // patch) ** 2 + 1, width) / math.sqrt(width)
        )
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, heads, depth)
        self.proj = nn.Parameter(torch.randn(width, embedding) / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OpenCLIP(nn.Module):
    """open_clip's CLIP, with (depth, width, heads) of vision and text.

    Tokens are padded with 0, and the end token is the largest.
    """

    def __init__(
        self,
        vision: tuple[int, int, int],
        text: tuple[int, int, int],
        size: int,
        patch: int,
        words: int,
        length: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.visual = Visual(vision[1], vision[2], vision[0], size, patch, embedding)
        self.transformer = Transformer(text[1], text[2], text[0])
        self.token_embedding = nn.Embedding(words, text[1])
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(length, text[1]))
        self.ln_final = nn.LayerNorm(text[1])
        self.text_projection = nn.Parameter(torch.randn(text[1], embedding) / math.sqrt(text[1]))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(tokens) + self.positional_embedding[:length], mask)
        return self.ln_final(x)[torch.arange(len(x)), tokens.argmax(-1)] @ self.text_projection


class Attention(nn.Module):
    """The attention of timm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, width))


class VisionBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """The vision transformer of BLIP, which is timm's."""

    def __init__(self, depth: int, width: int, heads: int, size: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(0.1 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(VisionBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Output(nn.Module):
    """The end of a sub-layer of BERT: linear, residual, then the norm."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(inputs, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class BertAttention(nn.Module):
    """The attention of BERT, to itself or to `source` of another width."""

    def __init__(self, width: int, heads: int, source: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.Module()
        self.self.query, self.self.key, self.self.value = (
            nn.Linear(width, width),
            nn.Linear(source, width),
            nn.Linear(source, width),
        )
        self.output = Output(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | float) -> Tensor:
        q, k, v = (
            part(given).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part, given in ((self.self.query, x), (self.self.key, source), (self.self.value, source))
        )
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask).softmax(-1)
        return self.output((weights @ v).transpose(1, 2).flatten(2), x)


class BertLayer(nn.Module):
    def __init__(self, width: int, heads: int, seen: int) -> None:
        super().__init__()
        self.attention, self.crossattention = (
            BertAttention(width, heads, width),
            BertAttention(width, heads, seen),
        )
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, 4 * width)
        self.output = Output(4 * width, width)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, x, mask)
        x = self.crossattention(x, seen, 0.0)
        return self.output(F.gelu(self.intermediate.dense(x)), x)


class Bert(nn.Module):
    """The text encoder of BLIP, in which every layer has cross-attention to the image."""

    def __init__(self, depth: int, width: int, heads: int, seen: int, words: int, length: int) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.word_embeddings, self.embeddings.position_embeddings = (
            nn.Embedding(words, width),
            nn.Embedding(length, width),
        )
        self.embeddings.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.embeddings.register_buffer("position_ids", torch.arange(length).expand(1, -1))
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(BertLayer(width, heads, seen) for _ in range(depth))

    def forward(self, tokens: Tensor, counts: Tensor, seen: Tensor) -> Tensor:
        mask = (1 - counts[:, None, None, :].float()) * -10000.0
        x = self.embeddings.word_embeddings(tokens) + self.embeddings.position_embeddings(
            torch.arange(tokens.shape[1])
        )
        x = self.embeddings.LayerNorm(x)
        for layer in self.encoder.layer:
            x = layer(x, seen, mask)
        return x


class ImageReward(nn.Module):
    """The authors' network, with (depth, width, heads) of vision and text.

    The projections are those of BLIP's other losses.
    """

    def __init__(
        self,
        vision: tuple[int, int, int],
        text: tuple[int, int, int],
        size: int,
        patch: int,
        words: int,
        length: int,
    ) -> None:
        super().__init__()
        self.blip = nn.Module()
        self.blip.visual_encoder = VisionTransformer(*vision, size, patch)
        self.blip.text_encoder = Bert(*text, vision[1], words, length)
        self.blip.vision_proj, self.blip.text_proj = nn.Linear(vision[1], 256), nn.Linear(text[1], 256)
        self.mlp = head(text[1])

    def forward(self, pixels: Tensor, tokens: Tensor, counts: Tensor) -> Tensor:
        read = self.blip.text_encoder(tokens, counts, self.blip.visual_encoder(pixels))
        return (self.mlp.layers(read[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072


def head(features: int) -> nn.Module:
    """The head of ImageReward and of LAION's aesthetic predictor, with its dropouts."""
    module = nn.Module()
    sizes = [(features, 1024), 0.2, (1024, 128), 0.2, (128, 64), 0.1, (64, 16), (16, 1)]
    module.layers = nn.Sequential(
        *(nn.Linear(*size) if isinstance(size, tuple) else nn.Dropout(size) for size in sizes)
    )
    return module
