"""HPSv3 against its authors' network and inference, with one file of weights in their layout."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.rewards import of_name
from distill.rewards.pretrained.vision_language import hpsv3
from distill.rewards.pretrained.vision_language.chat import Chat
from distill.rewards.pretrained.vision_language.hpsv3 import INSTRUCTION, UNUSED, published_weight
from distill.rewards.pretrained.vision_language.patches import Patches
from distill.rewards.pretrained.weights import load_renamed, meta
from distill.types import Condition
from tests.helpers import tiny_vision_language as tiny
from tests.helpers.tiny_reward_networks import (
    PROMPTS,
    disturbed,
    floats,
    gradient_errors,
    pixels,
    prompted,
)

SIDE = 32
"""Height and width of a square image that the tiny network reads; the published one reads 448."""


def published_network(config: Any, vocabulary: int) -> Any:
    """Build the authors' network: Qwen2-VL with a larger vocabulary and a head."""
    from transformers import Qwen2VLForConditionalGeneration

    config.get_text_config().vocab_size = vocabulary
    network: Any = Qwen2VLForConditionalGeneration(config)
    network.rm_head = nn.Sequential(
        nn.Linear(config.get_text_config().hidden_size, 1024),
        nn.ReLU(),
        nn.Dropout(0.05),
        nn.Linear(1024, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )
    return network


def published_names(network: Any) -> dict[str, Tensor]:
    """Return the weights by their names in the authors' file, those of transformers 4.45."""
    return {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hpsv3, "PIXELS", SIDE * SIDE)


@pytest.fixture(scope="module")
def network() -> Any:
    """Return the authors' network after their conversion to bfloat16, computing in float32."""
    torch.manual_seed(0)
    network = disturbed(published_network(tiny.qwen2_vl_config(), len(tiny.tokenizer()) + 1))
    head = {name: tensor.clone() for name, tensor in network.rm_head.state_dict().items()}
    network.to(torch.bfloat16).float()  # frequencies are rounded too
    network.rm_head.load_state_dict(head)
    return network


@pytest.fixture
def folder(network: Any, tmp_path: Path) -> Path:
    """Write the authors' file beside Qwen2-VL's configuration, tokenizer and image processor."""
    from safetensors.torch import save_file

    tiny.processor_folder(tmp_path, "qwen2_vl")
    state = {
        name: tensor if name.startswith("rm_head") else tensor.bfloat16()
        for name, tensor in published_names(network).items()
    }
    save_file(state, tmp_path / "HPSv3.safetensors")
    return tmp_path


def reward_of(folder: Path, **settings: Any) -> Any:
    given = {"path": str(folder), "processor": str(folder), "dtype": "float32", **settings}
    return of_name("hpsv3", **given).load()


def published_scores(network: Any, folder: Path, images: Tensor, prompts: tuple[str, ...]) -> Tensor:
    """Compute means and deviations as the authors' inference does, in one batch padded at the right.

    Embeddings are made of tokens and images, the language model counts positions by itself, and the head
    reads every token.
    """
    from PIL import Image
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
    height, width = smart_resize(*images.shape[2:], 8, SIDE * SIDE, SIDE * SIDE)
    resized = [image.resize((width, height), Image.Resampling.BICUBIC) for image in tiny.to_images(images)]
    texts = tokenizer.apply_chat_template(
        tiny.chats([INSTRUCTION.format(text_prompt=prompt) for prompt in prompts]),
        tokenize=False,
        add_generation_prompt=True,
    )
    processor = tiny.without_videos("qwen2_vl")(Qwen2VLImageProcessorPil.from_pretrained(folder), tokenizer)
    batch = processor(text=texts, images=resized, padding=True, return_tensors="pt")
    tokens = batch["input_ids"]
    with torch.no_grad():
        embedded = network.model.language_model.embed_tokens(tokens)
        seen = network.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        is_image = (tokens == network.config.image_token_id)[:, :, None].expand_as(embedded)
        states = network.model.language_model(
            inputs_embeds=embedded.masked_scatter(is_image, seen), attention_mask=batch["attention_mask"]
        ).last_hidden_state
        outputs = network.rm_head(states)
    return outputs[tokens == tokenizer.convert_tokens_to_ids("<|Reward|>")]


@pytest.mark.parametrize("size", [(40, 40), (24, 60)])
def test_it_is_the_mean_of_the_authors_network(size: tuple[int, int], folder: Path, network: Any) -> None:
    images = pixels(2, *size)
    expected = published_scores(network, folder, images, PROMPTS)
    with torch.no_grad():
        found = reward_of(folder)(from_bytes(images), prompted(*PROMPTS))
    assert (expected[0, 0] - expected[1, 0]).abs() > 1e-3
    assert (expected[:, 0] - expected[:, 1]).abs().min() > 1e-3
    torch.testing.assert_close(found, expected[:, 0], rtol=0, atol=1e-5)


def test_in_bfloat16_the_head_stays_in_float32(folder: Path) -> None:
    images, cond = from_bytes(pixels()), prompted(*PROMPTS)
    reward = reward_of(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in reward.network.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in reward.head.parameters()} == {torch.float32}
    with torch.no_grad():
        exact, rounded = reward_of(folder)(images, cond), reward(images, cond)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0, atol=0.05)


def test_the_frequencies_are_rounded_as_the_authors_were(folder: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        network = reward_of(folder, dtype=dtype).network
        found = network.language_model.rotary_emb.inv_freq.float()
        exact = 1e4 ** -(torch.arange(0, 8, 2) / 8)
        torch.testing.assert_close(found, exact.bfloat16().float(), rtol=0, atol=0)
        assert not torch.equal(found, exact)


def test_gradient_is_that_of_finite_differences(folder: Path) -> None:
    """The network has norms and rotations in float32 also where its weights are float64: 7 digits.

    Along the direction the score changes by 3e-4, so that no more than 3 digits of the difference are left.
    """
    error, size = gradient_errors(reward_of(folder), floats(), prompted(*PROMPTS), step=1e-2)
    assert size > 1e-3
    assert error < 2e-3


def test_checkpointing_changes_no_gradient(folder: Path) -> None:
    found = []
    for checkpoint in (False, True):
        images = from_bytes(pixels()).requires_grad_()
        score = reward_of(folder, checkpoint=checkpoint)(images, prompted(*PROMPTS)).sum()
        found.append(torch.autograd.grad(score, images)[0])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_scores_do_not_depend_on_the_batch(folder: Path) -> None:
    reward = reward_of(folder)
    images = from_bytes(pixels(3))
    prompts = ("a cat", "two dogs on a sofa", "")
    with torch.no_grad():
        together = reward(images, prompted(*prompts))
        alone = [reward(images[row : row + 1], prompted(prompts[row])) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=0)


def test_a_reward_token_in_a_prompt_is_not_the_one_that_is_read(folder: Path) -> None:
    reward = reward_of(folder)
    plain, odd = reward.tokens("a", 4), reward.tokens("a<|Reward|>", 4)
    assert odd.shape[1] == plain.shape[1] + 1
    assert int(odd[0, -1]) == int(plain[0, -1]) == len(tiny.tokenizer())


def test_the_text_is_the_authors() -> None:
    """The hash is that of the instruction and the question of their data collator, one after the other."""
    assert INSTRUCTION.count("{text_prompt}") == 1
    assert (
        hashlib.sha256(INSTRUCTION.encode()).hexdigest()
        == "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"
    )


def test_the_published_names_of_qwen2_vl_7b() -> None:
    """Names and shapes of the authors' file map one to one to our network's, but for the unused one."""
    from transformers import Qwen2VLConfig

    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 151658,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": 3584}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    with torch.device("meta"):
        state = published_names(published_network(config, 151658))
    assert state["visual.blocks.31.attn.qkv.weight"].shape == (3840, 1280)
    assert state["visual.merger.mlp.2.weight"].shape == (3584, 5120)
    assert state["model.layers.27.self_attn.k_proj.bias"].shape == (512,)
    assert state["model.norm.weight"].shape == (3584,)
    assert state["rm_head.5.weight"].shape == (2, 16)
    chat = Chat(tiny.tokenizer(), tiny.CHAT, tiny.tokenizer().convert_tokens_to_ids("<|image_pad|>"), "", "")
    network = load_renamed(
        meta(lambda: hpsv3.HPSv3(config, chat, 151657, Patches(1, 1))),
        state,
        published_weight,
        "here",
        UNUSED,
        dtype=None,
    )
    used = sum(value.numel() for name, value in state.items() if name not in UNUSED)
    # Qwen2-VL-7B-Instruct has 8 291 375 616 parameters; the vocabulary is 406 smaller, and there is a head.
    head = 3584 * 1024 + 1024 + 1024 * 16 + 16 + 16 * 2 + 2
    assert used == 8_291_375_616 - (152064 - 151658) * 3584 - 152064 * 3584 + head
    assert sum(parameter.numel() for parameter in network.parameters()) == used


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        reward_of(folder, **settings)
    return str(caught.value)


def test_other_files_are_refused_in_one_line(network: Any, folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(folder, path=str(empty)) == f"hpsv3.path: {empty} holds no HPSv3.safetensors"
    assert refusal(folder, processor=str(empty)).startswith(f"hpsv3.processor: {empty} cannot be opened (")
    file = empty / "HPSv3.safetensors"
    save_file(network.state_dict(), file)
    assert refusal(folder, path=str(file)) == (
        f"{file}: weights of another architecture: visual.patch_embed.proj.weight is nothing; "
        "expected (16, 3, 2, 4, 4)"
    )
    file.write_bytes(b"nothing")
    assert refusal(folder, path=str(file)).startswith(f"{file}: is broken or no safetensors file (")
    llava = tiny.processor_folder(tmp_path / "llava", "llava")
    assert refusal(folder, processor=str(llava)) == (
        f"hpsv3.processor: {llava} holds a llava; expected one of qwen2_vl"
    )


def test_a_condition_without_prompts_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^hpsv3: reads prompts, and the images come without"):
        reward_of(folder)(from_bytes(pixels()), Condition(torch.zeros(2, dtype=torch.long)))
