"""ImageReward against its authors' network in plain torch, with one file of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.rewards import of_name
from distill.rewards.pretrained import image_reward
from distill.rewards.pretrained.image_reward import UNUSED, blip_large, published_weight
from distill.rewards.pretrained.weights import load_renamed, meta
from distill.types import Condition, Reward
from tests.helpers import published_rewards as published
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.tiny_reward_networks import PROMPTS, SIZE, floats, gradient_errors, pixels, prompted

WORDS = 5 + 52 + 2
TINY = {"vision": (2, 20, 2), "text": (2, 24, 3), "size": SIZE, "patch": 8, "words": WORDS, "length": 40}
BLIP_LARGE = {
    "vision": (24, 1024, 16),
    "text": (12, 768, 12),
    "size": 224,
    "patch": 16,
    "words": 30524,
    "length": 512,
}
LETTERS = 33
"""Tokens of a prompt apart from the first and the last."""


@pytest.fixture(autouse=True)
def tiny_blip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `read_image_reward` the sizes of a tiny BLIP; the published sizes have a test of their own."""

    def tiny() -> Any:
        from transformers import BlipTextConfig, BlipVisionConfig

        vision = {
            "hidden_size": 20,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 8,
        }
        text = {
            "hidden_size": 24,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "encoder_hidden_size": 20,
        }
        return BlipVisionConfig(**vision, layer_norm_eps=1e-6), BlipTextConfig(
            **text, vocab_size=WORDS, max_position_embeddings=40
        )

    monkeypatch.setattr(image_reward, "blip_large", tiny)


@pytest.fixture(scope="module")
def network() -> published.ImageReward:
    torch.manual_seed(0)
    return tiny_networks.disturbed(published.ImageReward(**TINY))  # type: ignore[arg-type]


@pytest.fixture
def reward(network: published.ImageReward, tmp_path: Path) -> Reward:
    tiny_networks.bert_tokenizer(tmp_path)
    torch.save(network.state_dict(), tmp_path / "ImageReward.pt")
    return of_name("imagereward", path=str(tmp_path), tokenizer=str(tmp_path)).load()


def tokens_of(prompt: str) -> tuple[Tensor, Tensor]:
    """Tokenise by hand into tokens and mask, padded to 35.

    The tokens are [CLS], the first letter of each word and its continuations, and [SEP].
    """
    letters = [
        5 + ord(letter) - ord("a") + 26 * (place > 0)
        for word in prompt.split()
        for place, letter in enumerate(word)
    ]
    tokens = [2, *letters[:LETTERS], 3]
    padding = [0] * (35 - len(tokens))
    return torch.tensor([tokens + padding]), torch.tensor([[1] * len(tokens) + padding])


@pytest.mark.parametrize("size", [(45, 40), (31, 64), (24, 24)])
def test_it_is_the_authors_network(
    size: tuple[int, int], reward: Reward, network: published.ImageReward
) -> None:
    """In an image of 45x40 three rows are too many, and the middle is rounded as in torchvision."""
    images = pixels(2, *size)
    with torch.no_grad():
        prepared = [published.crop(published.to_image(image), SIZE)[None] for image in images]
        expected = torch.cat(
            [network(image, *tokens_of(prompt)) for image, prompt in zip(prepared, PROMPTS, strict=True)]
        )
        found = reward(from_bytes(images), prompted(*PROMPTS))
    assert (expected[0] - expected[1]).abs() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradient_is_that_of_finite_differences(reward: Reward) -> None:
    error, size = gradient_errors(reward, floats(), prompted(*PROMPTS))
    assert size > 1e-3
    assert error < 1e-6


def test_long_prompts_still_matter(reward: Reward, network: published.ImageReward) -> None:
    """A prompt has at most 35 tokens, [CLS] and [SEP] among them."""
    images, long = pixels(1), "a" * LETTERS
    with torch.no_grad():
        said, other, later = (
            float(reward(from_bytes(images), prompted(prompt)))
            for prompt in (long, f"b{long[1:]}", f"{long} more")
        )
        expected = network(
            published.crop(published.to_image(images[0]), SIZE)[None], *tokens_of(f"{long} more")
        )
    assert abs(said - other) > 1e-3
    assert said == later == pytest.approx(float(expected), abs=1e-5)


def test_blips_own_tokens_are_words(reward: Reward) -> None:
    """[DEC] and [ENC] follow BERT's words, in this order."""
    tokens, _ = reward.tokens(["[ENC] a [DEC]"])  # type: ignore[operator]
    assert tokens[0, :5].tolist() == [2, WORDS - 1, 5, WORDS - 2, 3]


def test_a_condition_without_prompts_is_refused(reward: Reward) -> None:
    with pytest.raises(UserError, match=r"^imagereward: reads prompts, and the images come without"):
        reward(from_bytes(pixels()), Condition(torch.zeros(2, dtype=torch.long)))


def test_the_published_names_of_blip_large() -> None:
    """Names and shapes of the authors' file map one to one to our network's, but for those named unused."""
    with torch.device("meta"):
        state = published.ImageReward(**BLIP_LARGE).state_dict()  # type: ignore[arg-type]
    assert set(UNUSED) < set(state)
    assert state["blip.visual_encoder.blocks.23.attn.qkv.weight"].shape == (3072, 1024)
    assert state["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"].shape == (768, 1024)
    assert state["mlp.layers.7.weight"].shape == (1, 16)
    tokenizer = type("Tokenizer", (), {"add_tokens": lambda *_, **__: None})()
    network = load_renamed(
        meta(lambda: image_reward.ImageReward(blip_large(), tokenizer)),
        state,
        published_weight,
        "here",
        UNUSED,
    )
    used = sum(value.numel() for name, value in state.items() if name not in UNUSED)
    assert sum(parameter.numel() for parameter in network.parameters()) == used == 446_206_689
    vision, text = blip_large()
    assert (vision.layer_norm_eps, text.layer_norm_eps, text.num_attention_heads, text.hidden_act) == (
        1e-6,
        1e-12,
        12,
        "gelu",
    )


def test_another_file_is_refused_by_the_first_name_that_differs(
    network: published.ImageReward, tmp_path: Path
) -> None:
    tiny_networks.bert_tokenizer(tmp_path)
    state = network.state_dict()
    name = "blip.text_encoder.encoder.layer.1.crossattention.self.query.bias"
    torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "ImageReward.pt")
    with pytest.raises(
        UserError,
        match=rf"^{tmp_path}/ImageReward.pt: weights of another architecture: "
        rf"{name} is nothing; expected \(24,\)$",
    ):
        of_name("imagereward", path=str(tmp_path / "ImageReward.pt"), tokenizer=str(tmp_path)).load()
