"""PickScore, HPSv2 and CLIPScore against their authors' formulas, on tiny networks of the published architectures."""

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
from distill.rewards.pretrained.open_clip import published_weight, read_open_clip, vit_h_14
from distill.rewards.pretrained.weights import load_renamed, meta
from distill.types import Condition, Reward
from tests.helpers import published_rewards as published
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.tiny_reward_networks import (
    LENGTH,
    LONG,
    PROMPTS,
    SIZE,
    WORDS,
    floats,
    gradient_errors,
    pixels,
    prompted,
)

HPS = {
    "vision": (2, 32, 2),
    "text": (2, 24, 2),
    "size": SIZE,
    "patch": 8,
    "words": WORDS,
    "length": LENGTH,
    "embedding": 12,
}
VIT_H_14 = {
    "vision": (32, 1280, 16),
    "text": (24, 1024, 16),
    "size": 224,
    "patch": 14,
    "words": 49408,
    "length": 77,
    "embedding": 1024,
}
SCORES = ("pickscore", "hpsv2.1", "clipscore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as the published ones are: `clip` with everything, `processor` without a network, `hps` with open_clip's files."""
    root = tmp_path_factory.mktemp("similarity")
    tiny_networks.clip(root / "clip")
    tiny_networks.clip_processor(root / "processor")
    (root / "hps").mkdir()
    for seed, name in enumerate(("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt")):
        state = {f"module.{key}": value.half() for key, value in hps(seed).state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, root / "hps" / name)
    return root


@pytest.fixture(autouse=True)
def tiny_vit_h_14(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward of a tiny ViT-H/14: what the published sizes are is tested by themselves."""

    def tiny() -> Any:
        from transformers import CLIPConfig

        shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
        text = {
            **shared,
            "hidden_size": 24,
            "intermediate_size": 96,
            "vocab_size": WORDS,
            "max_position_embeddings": LENGTH,
            "eos_token_id": 59,
        }
        vision = {**shared, "hidden_size": 32, "intermediate_size": 128, "image_size": SIZE, "patch_size": 8}
        return CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)

    monkeypatch.setattr(open_clip, "vit_h_14", tiny)


def hps(seed: int) -> published.OpenCLIP:
    """Its weights are rounded to half precision, as the published ones are."""
    torch.manual_seed(seed)
    network = tiny_networks.disturbed(published.OpenCLIP(**HPS))  # type: ignore[arg-type]
    return network.half().float()


def opened(score: str, root: Path, **settings: Any) -> Reward:
    places = {
        "pickscore": {"path": root / "clip", "processor": root / "processor"},
        "hpsv2": {"path": root / "hps", "tokenizer": root / "processor"},
        "clipscore": {"path": root / "clip"},
    }[score.split(".")[0]]
    return of_name(score, **{name: str(place) for name, place in places.items()}, **settings).load()


def score(reward: Reward, *prompts: str, images: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return reward(from_bytes(pixels(len(prompts))) if images is None else images, prompted(*prompts))


def by_transformers(folder: Path, *prompts: str) -> tuple[Tensor, Tensor]:
    """Cosines and logits of pairs by the published usage of transformers: its PIL image processor, its tokenizer, its network."""
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
    """By open_clip's network in plain torch, from the same file; the image in a black frame, the prompt padded with zeros."""
    network, words = (
        hps(seed),
        {"a": 26, "c": 28 - 26, "t": 45},
    )  # letters at the end of a word stand 26 rows behind
    images = pixels(1, *size)
    tokens = torch.tensor([[58, words["c"], 0, words["t"], 59, *[0] * (LENGTH - 5)]])  # "cat"
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
    """What is said beyond the last token is not read, and what is said before is: cutting tokens off after encoding would lose the end token."""
    reward, images = opened(name, root), from_bytes(pixels(1))
    said, other, later = (
        float(score(reward, prompt, images=images)) for prompt in (LONG, f"z{LONG[1:]}", f"{LONG} more")
    )
    assert len(LONG.replace(" ", "")) > LENGTH - 2
    assert abs(said - other) > 1e-3
    assert said == later
    assert float(score(reward, LONG[: LENGTH - 2 + 1], images=images)) != pytest.approx(
        said, abs=1e-4
    )  # its last letter ends a word


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


def test_the_published_names_of_vit_h_14() -> None:
    """Names and shapes of a file of open_clip's ViT-H/14 are those of a `CLIPModel` of these sizes, one to one, and nothing is left over."""
    from transformers import CLIPModel

    with torch.device("meta"):
        state = published.OpenCLIP(**VIT_H_14).state_dict()  # type: ignore[arg-type]
    assert len(state) == 8 + 3 * 2 + 12 * (32 + 24)
    assert sum(value.numel() for value in state.values()) == 986_109_441
    assert state["visual.transformer.resblocks.31.attn.in_proj_weight"].shape == (3840, 1280)
    network = load_renamed(meta(lambda: CLIPModel(vit_h_14())), state, published_weight, "here")
    assert sum(parameter.numel() for parameter in network.parameters()) == 986_109_441
    assert network.config.text_config.hidden_act == network.config.vision_config.hidden_act == "gelu"


def test_other_files_are_refused_by_the_first_name_that_differs(root: Path, tmp_path: Path) -> None:
    state = hps(0).state_dict()
    path = tmp_path / "HPS_v2.1_compressed.pt"

    def complaint(content: Any) -> str:
        torch.save(content, path)
        with pytest.raises(UserError) as error:
            read_open_clip(path)
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix(f"{path}: ")

    read_open_clip(root / "hps" / "HPS_v2.1_compressed.pt")
    name = "transformer.resblocks.1.attn.in_proj_bias"
    assert (
        complaint({key: value for key, value in state.items() if key != name})
        == f"weights of another architecture: {name} is nothing; expected (72,)"
    )
    shorter = state["visual.proj"][:-1]
    assert (
        complaint(state | {"visual.proj": shorter})
        == "weights of another architecture: visual.proj is (31, 12); expected (32, 12)"
    )
    assert (
        complaint(state | {"more": shorter})
        == "weights of another architecture: it has more, which the network has not"
    )
    assert complaint({"state_dict": [1, 2]}) == "holds a dict; expected weights by name"
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no weights that torch wrote"):
        read_open_clip(path)


def test_missing_files_are_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^hpsv2.path: .* holds no HPS_v2.1_compressed.pt$"):
        of_name("hpsv2.1", path=str(tmp_path)).load()
    with pytest.raises(
        UserError,
        match=r"^hpsv2.path: HPS_v2_compressed.pt of nobody/nothing cannot be had \(.*\); expected a file, a folder or a",
    ):
        of_name("hpsv2", path="nobody/nothing").load()
    with pytest.raises(UserError, match=r"^pickscore.path: nobody/nothing cannot be opened"):
        of_name("pickscore", path="nobody/nothing").load()
    with pytest.raises(UserError, match=rf"^pickscore.processor: {tmp_path} cannot be opened"):
        of_name("pickscore", path=str(root / "clip"), processor=str(tmp_path)).load()
    tiny_networks.tiny_pipelines.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^pickscore.processor: {tmp_path} has no image processor"):
        of_name("pickscore", path=str(root / "clip"), processor=str(tmp_path)).load()


def test_weights_that_transformers_would_make_up_are_named(root: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(root / "clip", tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(path)
    tensors["visual_projection.weight"] = torch.zeros(3, 20)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"holds weights of another architecture: visual_projection.weight is \(3, 20\); expected \(12, 20\)$",
    ):
        opened("clipscore", tmp_path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"^clipscore.path: .* holds weights of another architecture: it has no visual_projection.weight$",
    ):
        opened("clipscore", tmp_path)


def test_the_prompts_embedding_has_no_graph(root: Path) -> None:
    reward = opened("clipscore", root)
    assert isinstance(reward, Similarity)
    assert not reward.requires_grad_().text(PROMPTS).requires_grad
