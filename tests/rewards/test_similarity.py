"""PickScore, HPSv2 and CLIPScore against their authors' formulas, on tiny networks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.rewards import of_name
from distill.rewards.pretrained import open_clip
from distill.rewards.pretrained.clip import Similarity
from distill.types import Condition, Reward
from tests.helpers import published_rewards as published
from tests.helpers.tiny_reward_networks import (
    LENGTH,
    LONG,
    PROMPTS,
    SIZE,
    floats,
    gradient_errors,
    pixels,
    prompted,
)
from tests.helpers.tiny_similarity import hps, opened, tiny_vit_h_14, write_networks

SCORES = ("pickscore", "hpsv2.1", "clipscore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_networks(tmp_path_factory.mktemp("similarity"))


@pytest.fixture(autouse=True)
def tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `read_open_clip` the sizes of a tiny ViT-H/14; the published sizes have a test of their own."""
    monkeypatch.setattr(open_clip, "vit_h_14", tiny_vit_h_14)


def score(reward: Reward, *prompts: str, images: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return reward(from_bytes(pixels(len(prompts))) if images is None else images, prompted(*prompts))


def by_transformers(folder: Path, *prompts: str) -> tuple[Tensor, Tensor]:
    """Compute cosines and logits of pairs by transformers' published usage.

    It is made of its Pillow image processor, its tokenizer and its network.
    """
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    network = CLIPModel.from_pretrained(folder)
    seen = CLIPImageProcessorPil.from_pretrained(folder)(
        images=[published.to_image(image) for image in pixels()], return_tensors="pt"
    )
    read = AutoTokenizer.from_pretrained(folder)(
        list(prompts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    with torch.no_grad():
        found = network(pixel_values=seen["pixel_values"], **read)
    return (found.image_embeds * found.text_embeds).sum(1), found.logits_per_image.diagonal()


def test_pickscore_is_the_models_logit(root: Path) -> None:
    _, logits = by_transformers(root / "clip", *PROMPTS)
    assert logits.std() > 0.01
    torch.testing.assert_close(score(opened("pickscore", root), *PROMPTS), logits, rtol=0, atol=1e-5)


def test_clipscore_has_three_conventions(root: Path) -> None:
    cosine, _ = by_transformers(root / "clip", *PROMPTS)
    assert cosine.min() > 0.1
    expected: dict[Any, Tensor] = {
        "cosine": cosine,
        "100": 100 * cosine,
        100: 100 * cosine,
        "2.5": 2.5 * cosine,
        2.5: 2.5 * cosine,
    }
    for scale, value in expected.items():
        torch.testing.assert_close(
            score(opened("clipscore", root, scale=scale), *PROMPTS), value, rtol=1e-5, atol=1e-5
        )
    prefixed, _ = by_transformers(root / "clip", *(f"photo {prompt}" for prompt in PROMPTS))
    assert (prefixed - cosine).abs().min() > 1e-3
    torch.testing.assert_close(
        score(opened("clipscore", root, prefix="photo "), *PROMPTS), prefixed, rtol=0, atol=1e-5
    )
    with pytest.raises(UserError, match=r"^clipscore: scale: expected 'cosine', '100' or '2.5'; found '1'$"):
        of_name("clipscore", scale=1)


def test_a_negative_cosine_counts_only_as_itself(root: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel

    shutil.copytree(root / "clip", tmp_path / "clip")
    network = CLIPModel.from_pretrained(root / "clip")
    network.text_projection.weight.data.neg_()
    network.save_pretrained(tmp_path / "clip")
    cosine, _ = by_transformers(tmp_path / "clip", *PROMPTS)
    assert cosine.max() < -0.1
    torch.testing.assert_close(score(opened("clipscore", tmp_path), *PROMPTS), cosine, rtol=0, atol=1e-5)
    assert torch.equal(score(opened("clipscore", tmp_path, scale="100"), *PROMPTS), torch.zeros(2))
    assert torch.equal(score(opened("clipscore", tmp_path, scale="2.5"), *PROMPTS), torch.zeros(2))


@pytest.mark.parametrize(("name", "seed"), [("hpsv2", 0), ("hpsv2.1", 1)])
@pytest.mark.parametrize("size", [(40, 31), (24, 40), (24, 24), (7, 11), (97, 61)])
@pytest.mark.parametrize("antialias", [True, False])
def test_hpsv2_is_open_clips_cosine(
    name: str, seed: int, size: tuple[int, int], antialias: bool, root: Path
) -> None:
    """The reference is open_clip's network in plain torch, from the same file.

    The image has a black frame, and the prompt is padded with zeros.
    """
    network = hps(seed)
    images = pixels(1, *size)
    # The tokens of "cat": at the end of a word a letter's number is 26 higher.
    tokens = torch.tensor([[58, 2, 0, 19 + 26, 59, *[0] * (LENGTH - 5)]])
    with torch.no_grad():
        seen = F.normalize(
            network.visual(published.letterboxed(published.to_image(images[0]), SIZE, antialias)[None]),
            dim=-1,
        )
        read = F.normalize(network.encode_text(tokens), dim=-1)
    found = score(opened(name, root, antialias=antialias), "cat", images=from_bytes(images))
    torch.testing.assert_close(found, (seen * read).sum(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_what_decides_a_reward_is_plain_data_wherever_its_files_lie(
    name: str, root: Path, tmp_path: Path
) -> None:
    import json

    shutil.copytree(root, tmp_path / "elsewhere")
    reward, other = opened(name, root), opened(name, tmp_path / "elsewhere")
    described = reward.describe()
    assert json.loads(json.dumps(described, sort_keys=True)) == json.loads(
        json.dumps(other.describe(), sort_keys=True)
    )
    assert described["preparation"]["resampler"] == ("torch_antialiased" if name == "hpsv2.1" else "pillow")
    assert (
        len(described["tokenizer_sha256"]),
        described["vision"]["image_size"],
        described["text"]["hidden_act"],
    ) == (
        64,
        SIZE,
        "gelu" if name == "hpsv2.1" else "quick_gelu",
    )
    score(reward, *PROMPTS)
    assert reward.describe() == described


def test_hpsv2_antialiases_by_default(root: Path) -> None:
    images = from_bytes(pixels(1, 97, 61))
    default, smooth, rough = (
        float(score(opened("hpsv2", root, **given), "cat", images=images))
        for given in ({}, {"antialias": True}, {"antialias": False})
    )
    assert default == smooth
    assert abs(smooth - rough) > 1e-4


@pytest.mark.parametrize("name", SCORES)
def test_gradient_is_that_of_finite_differences(name: str, root: Path) -> None:
    error, size = gradient_errors(opened(name, root), floats(), prompted(*PROMPTS))
    assert size > 1e-3
    assert error < 1e-6


@pytest.mark.parametrize("name", SCORES)
def test_long_prompts_still_matter(name: str, root: Path) -> None:
    """Text beyond the last token is not read, and text before it is.

    Cutting tokens off after encoding would lose the end token.
    """
    reward, images = opened(name, root), from_bytes(pixels(1))
    said, other, later = (
        float(score(reward, prompt, images=images)) for prompt in (LONG, f"z{LONG[1:]}", f"{LONG} more")
    )
    assert len(LONG.replace(" ", "")) > LENGTH - 2
    assert abs(said - other) > 1e-3
    assert said == later
    # The last letter of a prompt cut by hand is the end of a word.
    assert float(score(reward, LONG[: LENGTH - 2 + 1], images=images)) != pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_depend_on_the_batch(name: str, root: Path) -> None:
    reward, images = opened(name, root), from_bytes(pixels())
    both = score(reward, *PROMPTS)
    alone = torch.cat(
        [score(reward, prompt, images=image[None]) for prompt, image in zip(PROMPTS, images, strict=True)]
    )
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)


def test_a_reward_is_frozen_and_follows_its_images(root: Path) -> None:
    reward = opened("hpsv2", root)
    assert not reward.training
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    images = floats().float().detach().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images, prompted(*PROMPTS)).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.dtype == torch.float32
    low = reward.to(torch.bfloat16)(images, prompted(*PROMPTS))
    torch.testing.assert_close(
        low.float(), score(opened("hpsv2", root), *PROMPTS, images=images), rtol=0.1, atol=0.02
    )


@pytest.mark.parametrize("cond", [Condition(), Condition(torch.zeros(2, dtype=torch.long)), prompted()])
def test_a_condition_without_prompts_is_refused(cond: Condition, root: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^pickscore: reads prompts, and the images come without; expected a model that takes prompts$",
    ):
        opened("pickscore", root)(from_bytes(pixels()), cond)


def test_the_prompts_embedding_has_no_graph(root: Path) -> None:
    reward = opened("clipscore", root)
    assert isinstance(reward, Similarity)
    assert not reward.requires_grad_().text(PROMPTS).requires_grad
