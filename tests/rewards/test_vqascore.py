"""VQAScore against transformers' own processors and networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.rewards import of_name
from distill.rewards.pretrained.vision_language.networks import checkpoint_layers
from distill.types import Condition
from tests.helpers import tiny_vision_language as tiny
from tests.helpers.tiny_reward_networks import PROMPTS, floats, gradient_errors, pixels, prompted

FAMILIES = list(tiny.CONFIGS)
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.chat_model(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.chat_model(tmp_path_factory.mktemp("qwen"), "qwen2_vl")


def reward_of(model: Path, **settings: Any) -> Any:
    return of_name("vqascore", path=str(model), **{"dtype": "float32", **settings}).load()


def published(model: Path, family: str, images: Tensor, questions: list[str]) -> Tensor:
    """Compute the first answer's log-probabilities as transformers is used, in one padded batch."""
    from transformers import (
        AutoModelForImageTextToText,
        AutoTokenizer,
        CLIPImageProcessorPil,
        Qwen2VLImageProcessorPil,
    )
    from transformers.models.llava.processing_llava import LlavaProcessor

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    processor: Any
    if family == "llava":
        processor = LlavaProcessor(
            CLIPImageProcessorPil.from_pretrained(model),
            tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token="<|image_pad|>",
        )
    else:
        processor = tiny.without_videos(family)(Qwen2VLImageProcessorPil.from_pretrained(model), tokenizer)
    texts = tokenizer.apply_chat_template(tiny.chats(questions), tokenize=False, add_generation_prompt=True)
    batch = processor(text=texts, images=tiny.to_images(images), padding=True, return_tensors="pt")
    network = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        return network(**batch).logits[:, -1].log_softmax(-1)


def test_it_is_the_probability_of_the_answer(model: Path, family: str) -> None:
    images = pixels()
    reward = reward_of(model)
    expected = published(model, family, images, [QUESTION.replace("{}", prompt) for prompt in PROMPTS])
    yes = tiny.tokenizer().convert_tokens_to_ids("Yes")
    with torch.no_grad():
        found = reward(from_bytes(images), prompted(*PROMPTS))
        logarithm = reward_of(model, scale="log")(from_bytes(images), prompted(*PROMPTS))
    assert (expected[0, yes] - expected[1, yes]).abs() > 1e-3
    torch.testing.assert_close(found, expected[:, yes].exp(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(logarithm, expected[:, yes], rtol=0, atol=1e-4)


def test_the_question_and_the_answer_are_settings(qwen: Path) -> None:
    images = pixels()
    expected = published(
        qwen, "qwen2_vl", images, [f'Does this image show "{prompt}"?' for prompt in PROMPTS]
    )
    with torch.no_grad():
        reward = reward_of(qwen, question='Does this image show "{}"?', answer="N", scale="log")
        found = reward(from_bytes(images), prompted(*PROMPTS))
    torch.testing.assert_close(
        found, expected[:, tiny.tokenizer().convert_tokens_to_ids("N")], rtol=0, atol=1e-4
    )


def test_gradient_is_that_of_finite_differences(model: Path) -> None:
    """The networks have norms and rotations in float32 also where their weights are float64."""
    error, size = gradient_errors(reward_of(model, scale="log"), floats(), prompted(*PROMPTS), step=1e-3)
    assert size > 1e-3
    assert error < 1e-3


def test_checkpointing_changes_memory_only(model: Path) -> None:
    """The layers keep their inputs alone, and values and gradients are the same."""
    found = []
    for checkpoint in (False, True):
        reward = reward_of(model, scale="log", checkpoint=checkpoint)
        images = from_bytes(pixels()).requires_grad_()
        kept = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            score = reward(images, prompted(*PROMPTS)).sum()
        (gradient,) = torch.autograd.grad(score, images)
        found.append((score.detach(), gradient, kept))
    (score, gradient, stored), (same_score, same_gradient, recomputed) = found
    torch.testing.assert_close(same_score, score, rtol=0, atol=0)
    torch.testing.assert_close(same_gradient, gradient, rtol=0, atol=0)
    assert recomputed < stored / 2


def test_scores_do_not_depend_on_the_batch(qwen: Path) -> None:
    reward = reward_of(qwen)
    images = from_bytes(pixels(3))
    prompts = ("a cat", "two dogs on a sofa", "")
    with torch.no_grad():
        together = reward(images, prompted(*prompts))
        alone = [reward(images[row : row + 1], prompted(prompts[row])) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)


def test_bfloat16_is_near(qwen: Path) -> None:
    images, cond = from_bytes(pixels()), prompted(*PROMPTS)
    with torch.no_grad():
        exact = reward_of(qwen, scale="log")(images, cond)
        rounded = reward_of(qwen, scale="log", dtype="bfloat16")(images, cond)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


def test_the_description_tells_tokens_and_pictures_apart(qwen: Path, tmp_path: Path) -> None:
    before = reward_of(qwen).describe()
    assert before["preparation"]["max_pixels"] == tiny.PIXELS[1]
    assert "dtype" not in json.dumps(before["network"])
    changed = tmp_path / "changed"
    shutil.copytree(qwen, changed)
    tokenizer = tiny.tokenizer(tiny.CHAT.replace("helpful", "frank"))
    tokenizer.save_pretrained(changed)
    after = reward_of(changed).describe()
    assert after["chat_sha256"] != before["chat_sha256"]
    assert {**after, "chat_sha256": ""} == {**before, "chat_sha256": ""}


def refusal(model: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        reward_of(model, **settings)
    return str(caught.value)


def test_what_cannot_be_opened_is_refused_in_one_line(qwen: Path, tmp_path: Path) -> None:
    assert refusal(qwen, answer="Certainly") == (
        f"vqascore.path: the answer 'Certainly' is 9 tokens of {qwen}; expected one"
    )
    assert refusal(qwen, question="Is it good?").startswith(
        "vqascore: question: 'Is it good?': expected {} once, in place of the prompt"
    )
    folder = tmp_path / "plain"
    shutil.copytree(qwen, folder)
    tiny.tokenizer(None).save_pretrained(folder)
    for file in folder.glob("chat_template*"):
        file.unlink()
    assert refusal(folder) == (
        f"vqascore.path: {folder} has no chat template; expected a model that was tuned for chats"
    )
    tiny.tokenizer("{% for message in messages %}{{ message['content'] + '.' }}{% endfor %}").save_pretrained(
        folder
    )
    assert refusal(folder).startswith(f"vqascore.path: the chat template of {folder} cannot be used (")
    tiny.tokenizer("no image").save_pretrained(folder)
    assert refusal(folder) == f"vqascore.path: the chat template of {folder} is expected to name one image"


def test_another_network_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    assert refusal(tmp_path) == (
        f"vqascore.path: {tmp_path} holds a bert; expected one of llava, qwen2_5_vl, qwen2_vl, qwen3_vl"
    )


def test_missing_weights_are_refused(qwen: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "part"
    shutil.copytree(qwen, folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert refusal(folder) == (
        f"vqascore.path: {folder} holds weights of another architecture: it has no lm_head.weight"
    )


def test_prompts_are_needed_and_may_not_name_an_image(qwen: Path) -> None:
    reward = reward_of(qwen)
    images = from_bytes(pixels())
    with pytest.raises(UserError, match=r"^vqascore: reads prompts, and the images come without"):
        reward(images, Condition(torch.zeros(2, dtype=torch.long)))
    with pytest.raises(
        UserError, match=r"^vqascore\.path: a prompt has <\|image_pad\|> in it, which stands for an image$"
    ):
        reward(images, prompted("a", "an <|image_pad|>"))


def test_layers_are_those_of_both_halves(qwen: Path) -> None:
    """Two layers of the vision half and two of the language model are checkpointed."""
    network = reward_of(qwen, checkpoint=False).network
    before = {name for name, module in network.named_modules() if "forward" in vars(module)}
    checkpoint_layers(network)
    after = {name for name, module in network.named_modules() if "forward" in vars(module)}
    assert sorted(after - before) == [
        "model.language_model.layers.0",
        "model.language_model.layers.1",
        "model.visual.blocks.0",
        "model.visual.blocks.1",
    ]
