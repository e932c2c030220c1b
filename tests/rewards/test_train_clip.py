"""`python -m distill train-clip`, and the network in `assets/emoji-clip` that it wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data import Captions, InMemory
from distill.data.images import from_bytes, to_bytes
from distill.data.sources.emoji import Settings as Emoji
from distill.rewards import of_name
from distill.rewards.pretrained.clip import Similarity
from distill.rewards.pretrained.contrastive.clip import Recipe, train_clip
from distill.rewards.pretrained.contrastive.retrieval import measure
from distill.rewards.pretrained.contrastive.sources import check_captioned
from distill.rewards.pretrained.contrastive.tokenizer import train_tokenizer
from distill.rewards.pretrained.train_clip import main
from distill.storage.tensors import load_tensors
from tests.helpers import published_rewards as published
from tests.helpers.full_disk import fill_disk
from tests.helpers.tiny_reward_networks import prompted

ASSET = Path("assets/emoji-clip")
EMOJI = "{name: emoji, condition: captions}"
ONE_STYLE = "{name: emoji, condition: captions, categories: [food], styles: [noto]}"
TINY = ["--steps", "2", "--batch-size", "8", "--width", "32", "--image-layers", "1", "--text-layers", "1"]


@dataclasses.dataclass(frozen=True)
class Captioned(InMemory):
    """Images in memory with captions."""

    captions: Captions = dataclasses.field(default_factory=lambda: Captions(()))


def held_out() -> Any:
    return check_captioned(Emoji(condition="captions").load("held_out"))


def firsts(data: Any, count: int) -> tuple[Tensor, list[str]]:
    """Return images and first captions, spread over the source."""
    rows = range(0, len(data), len(data) // count)[:count]
    return torch.stack([data[row][0] for row in rows]), [data.captions.of_images[row][0] for row in rows]


@pytest.fixture(scope="module")
def reward() -> Similarity:
    loaded = of_name("clipscore", path=str(ASSET)).load()
    assert isinstance(loaded, Similarity)
    return loaded


def test_the_committed_network_finds_held_out_captions_as_often_as_stored(reward: Similarity) -> None:
    """No held-out name was seen in training; chance is 1 in 453."""
    stored = json.loads((ASSET / "made.json").read_text())["held_out"]
    found = dataclasses.asdict(measure(held_out(), reward.image, reward.text))
    assert found == pytest.approx(stored, abs=1e-9)
    assert (found["images"], found["captions"]) == (453, 453)
    assert found["recall_at_1"] > 20 / 453
    assert found["mean_rank"] < 0.22


def test_its_score_is_that_of_plain_transformers(reward: Similarity) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

    images, prompts = firsts(held_out(), 5)
    network = CLIPModel.from_pretrained(ASSET)
    pixels = CLIPImageProcessorPil.from_pretrained(ASSET)(
        images=[published.to_image(image) for image in to_bytes(images)], return_tensors="pt"
    )
    tokens = AutoTokenizer.from_pretrained(ASSET)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = network(**pixels, **tokens)
        expected = (found.image_embeds * found.text_embeds).sum(1)
        torch.testing.assert_close(reward(images, prompted(*prompts)), expected, rtol=0, atol=1e-5)


def test_following_its_gradient_raises_the_score(reward: Similarity) -> None:
    _, prompts = firsts(held_out(), 4)
    cond = prompted(*prompts)
    images = 0.3 * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = reward(images, cond)
    for _ in range(10):
        (gradient,) = torch.autograd.grad(reward(images.requires_grad_(), cond).sum(), images)
        assert gradient.isfinite().all()
        assert gradient.flatten(1).norm(dim=1).min() > 0
        step = 0.5 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        images = (images.detach() + step).clamp(-1, 1)
    with torch.no_grad():
        assert (reward(from_bytes(to_bytes(images)), cond) > before + 0.1).all()


def test_it_is_the_text_encoder_of_a_pipeline_of_diffusers() -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

    encoder, tokenizer = CLIPTextModel.from_pretrained(ASSET), AutoTokenizer.from_pretrained(ASSET)
    assert encoder.dtype == torch.float32
    parts = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipeline = StableDiffusionPipeline(
        **parts, text_encoder=encoder, tokenizer=tokenizer, requires_safety_checker=False
    )
    embeddings, _ = pipeline.encode_prompt("a red apple", torch.device("cpu"), 1, False)
    assert embeddings.shape == (1, 24, 128)
    tokens = tokenizer("a red apple", padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(ASSET).text_model(tokens["input_ids"]).last_hidden_state
    torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)


def test_a_tokenizer_keeps_every_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(["red apple, food fruit, 3d style", "red rose, plant flower, 3d style"], 560)
    tokenizer.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("red apple, food fruit, 3d style", "zebra é 火 and 🍎"):
        tokens = opened(text.upper())["input_ids"]
        assert tokens == tokenizer(text)["input_ids"]
        decoded = opened.decode(tokens, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.replace(" ", "")
    assert opened.tokenize("red apple, style") == ["red</w>", "apple</w>", ",</w>", "style</w>"]
    padded = opened(["red", "apple " * 40], padding="max_length", truncation=True)["input_ids"]
    start, end = opened.bos_token_id, opened.eos_token_id
    assert [len(row) for row in padded] == [24, 24]
    assert padded[0][0] == start
    assert padded[0][2:] == [end] * 22
    assert padded[1][-1] == end
    assert opened.convert_ids_to_tokens([start, end]) == ["<|startoftext|>", "<|endoftext|>"]


def test_the_same_captions_give_the_same_tokenizer() -> None:
    captions = Emoji(condition="captions").load().captions.texts
    found = {train_tokenizer(captions, 1536).backend_tokenizer.to_str() for _ in range(4)}
    assert len(found) == 1


def test_training_repeats_and_its_folder_is_a_reward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([EMOJI, "--out", str(tmp_path / "one"), *TINY])
    assert "held out, 453 images among 453 captions: recall at 1 " in capsys.readouterr().out
    torch.manual_seed(7)  # of others, which does not matter
    data = check_captioned(Emoji(condition="captions").load())
    again = train_clip(data, Recipe(steps=2, batch_size=8, width=32, image_layers=1, text_layers=1))
    stored = load_tensors(tmp_path / "one" / "model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in again.network.state_dict().items())
    opened = of_name("clipscore", path=str(tmp_path / "one")).load()
    assert opened(torch.zeros(1, 3, 32, 32), prompted("a red apple")).isfinite().all()
    with pytest.raises(UserError, match=r"^--out .*one: exists; expected a new folder$"):
        main([EMOJI, "--out", str(tmp_path / "one")])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_disk(monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(UserError) as error:
        main([ONE_STYLE, "--out", str(out), *TINY])
    assert str(error.value) == f"--out {out}: cannot be written (No space left on device)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        ("emoji", [], r"^data: images without captions; expected captioned ones, such as "),
        ("emojis", [], r"^data emojis: 'emojis' is not in distill/data/sources; did you mean 'emoji'\?$"),
        (EMOJI, ["--width", "48"], r"^--width 48: expected a multiple of 32$"),
        (EMOJI, ["--patch", "5"], r"^--patch 5: expected a divisor of 32, the images' side$"),
        (EMOJI, ["--vocabulary", "100"], r"^--vocabulary 100: expected at least 514$"),
        (EMOJI, ["--learning-rate", "0"], r"^--learning-rate 0.0: expected a number in \(0, 1\)$"),
    ],
)
def test_bad_input_is_one_line(data: str, options: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        main([data, "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


def test_pictures_must_be_square_and_in_colour() -> None:
    for shape in ((3, 32, 24), (1, 32, 32)):
        data = Captioned(torch.zeros(2, *shape), torch.tensor([0, 1]), 0, Captions([("a",), ("b",)]))
        with pytest.raises(UserError, match=r"^data: images of .*; expected square ones of 3 channels$"):
            check_captioned(data)
