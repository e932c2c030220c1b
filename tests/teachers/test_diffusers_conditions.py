"""Conditions of diffusers teachers: labels, prompts, none, and the inputs of a single family of networks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

import distill
from distill.config.errors import UserError
from distill.diffusion.guidance import guided
from distill.networks.diffusers.checks import check_parts
from distill.networks.diffusers.prompt_encoder import encoding_settings
from distill.teachers.diffusers import Settings
from distill.types import Condition
from tests.helpers.device_reads import no_device_reads
from tests.helpers.diffusers_families import FURTHER, TRANSFORMERS
from tests.helpers.diffusers_inputs import PROMPTS, PipelineFolders, condition, noise, transformer


@torch.no_grad()
def test_a_family_gets_its_own_inputs(folders: PipelineFolders) -> None:
    """PixArt-alpha gets sizes, FLUX a guidance scale, Sana an instruction, DiT a class for no label.

    DiT's own dropout of labels is switched off in training.
    """
    alpha = transformer(folders, "pixart-alpha")
    text = alpha.encode_prompts(PROMPTS).text
    assert text is not None
    told = alpha.pipeline.family.inputs(alpha.pipeline, text.given)["added_cond_kwargs"]
    assert (told["resolution"].tolist(), told["aspect_ratio"].tolist()) == ([[256.0, 256.0]] * 2, [[1.0]] * 2)

    assert transformer(folders, "flux").pipeline.embedded_guidance == 3.5
    stronger = Settings(path=str(folders["flux"]), resolution=16, embedded_guidance=7.0).load()
    x_t, t, cond = noise(stronger), torch.tensor([0.3, 0.7]), condition(stronger)
    assert (stronger(x_t, t, cond) - transformer(folders, "flux")(x_t, t, cond)).abs().max() > 1e-4
    with pytest.raises(UserError, match="embedded_guidance: the network is told no guidance; expected null"):
        Settings(path=str(folders["sd3"]), embedded_guidance=3.0).load()

    assert (
        len(encoding_settings(transformer(folders, "sana").pipeline.pipe)["complex_human_instruction"]) == 8
    )

    dit = transformer(folders, "dit")
    x_t, t = noise(dit), torch.tensor([300.0, 600.0])
    assert dit.label_count == 1000
    torch.testing.assert_close(dit(x_t, t, Condition()), dit(x_t, t, Condition(torch.tensor([1000, 1000]))))
    expected = dit(x_t, t, Condition(torch.tensor([3, 1])))
    for _ in range(20):  # a tenth of them would be dropped
        torch.testing.assert_close(dit.train()(x_t, t, Condition(torch.tensor([3, 1]))), expected)
    with pytest.raises(
        UserError, match="resolution: is 32; expected 16 or null: this pipeline makes images of one size"
    ):
        Settings(path=str(folders["dit"]), resolution=32).load()


@pytest.mark.parametrize("family", [name for name in TRANSFORMERS if name != "dit"])
@torch.no_grad()
def test_a_prompt_alone_gives_what_it_gives_among_longer_ones(folders: PipelineFolders, family: str) -> None:
    teacher = transformer(folders, family)
    prompts = ["a cat", "xyz", "a dog and a fox"]
    x_t, t = noise(teacher, 3), torch.tensor([0.3, 0.5, 0.7]) * teacher.schedule.t_max
    together = teacher(x_t, t, teacher.encode_prompts(prompts))
    for row, prompt in enumerate(prompts):
        one = slice(row, row + 1)
        alone = teacher(x_t[one], t[one], teacher.encode_prompts([prompt]))
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - teacher(x_t[:1], t[:1], teacher.encode_prompts(["xyz"]))[0]).abs().max() > 1e-5


@pytest.mark.parametrize("family", ["flux", "cogview4"])
@torch.no_grad()
def test_no_prompt_is_encoded_once(
    folders: PipelineFolders, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large encoders would take twice as long for prompts that are encoded one by one."""
    encoder = transformer(folders, family).pipeline.prompt_encoder
    pipe, encoded = encoder.pipe, []
    encode = pipe.encode_prompt

    @functools.wraps(encode)  # its signature tells its settings
    def count(**arguments: Any) -> Any:
        encoded.extend(arguments["prompt"])
        return encode(**arguments)

    monkeypatch.setattr(pipe, "encode_prompt", count)
    monkeypatch.setattr(encoder, "_nothing", None)
    first, second = (encoder.encode([prompt]).text for prompt in ("a cat", "a dog"))
    assert sorted(encoded) == ["", "a cat", "a dog"]
    for name, rows in encoder.encode([""]).text.given.items():
        assert torch.equal(first.unconditional[name], rows)
        assert torch.equal(second.unconditional[name], rows)


@pytest.mark.parametrize("family", ["sd3", "flux", *FURTHER])
@torch.no_grad()
def test_a_prediction_reads_nothing_from_the_device(
    folders: PipelineFolders, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = transformer(folders, family)
    x_t, t = noise(teacher), torch.tensor([0.3, 0.7]) * teacher.schedule.t_max
    cond = condition(teacher)
    expected = teacher(x_t, t, cond)
    with no_device_reads(monkeypatch):
        again = teacher(x_t, t, cond)
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("resolution", [16, 24])
@pytest.mark.parametrize("family", ["lumina2", "z-image", "cogview4"])
@torch.no_grad()
def test_prompts_filled_up_give_what_the_network_s_own_pass_gives(
    folders: PipelineFolders, family: str, resolution: int
) -> None:
    """The network's own forward pass takes prompts of their lengths; Lumina 2 and Z-Image several at once."""
    teacher = Settings(path=str(folders[family]), resolution=resolution).load()
    cond = teacher.encode_prompts(["a cat", "abc def ghi jkl mno pqr stu vwx yza bcd efg"])
    x_t, t = noise(teacher), torch.tensor([0.3, 0.7])
    x0 = teacher(x_t, t, cond)
    assert cond.text is not None
    tokens, mask = cond.text.given["tokens"], cond.text.given["mask"].bool()
    texts = [text[seen] for text, seen in zip(tokens, mask, strict=True)]
    assert len({len(text) for text in texts}) == 2
    reversed_t = (1000 - 1000 * t) / 1000  # rounded as in the pipelines
    if family == "lumina2":
        flow = -teacher.network(x_t, reversed_t, tokens, mask, return_dict=False)[0]
    elif family == "z-image":
        flow = -torch.stack(teacher.network(list(x_t[:, :, None]), reversed_t, texts, return_dict=False)[0])[
            :, :, 0
        ]
    else:
        shift = 0.75 * (resolution / 4 * resolution / 4 / 256) ** 0.5 + 0.25
        sizes = {"original_size": (resolution,) * 2, "target_size": (resolution,) * 2, "crop_coords": (0, 0)}
        given = {name: torch.tensor([value], dtype=torch.float32) for name, value in sizes.items()}
        times = 1000 * t / (t + shift * (1 - t))
        rows = [
            teacher.network(x_t[i : i + 1], texts[i][None], times[i : i + 1], **given, return_dict=False)[0]
            for i in range(2)
        ]
        flow = torch.cat(rows)
    torch.testing.assert_close(x0, x_t - t.reshape(2, 1, 1, 1) * flow, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_hunyuan_image_joins_its_two_prompts_as_the_network_s_own_pass(folders: PipelineFolders) -> None:
    """Its own forward pass moves the tokens before their filling; one prompt here has quoted words."""
    teacher = transformer(folders, "hunyuan-image")
    cond = teacher.encode_prompts(['a sign that says "open"', "a cat"])
    x_t, t = noise(teacher), torch.tensor([0.3, 0.7])
    assert cond.text is not None
    text = cond.text.given
    assert text["mask_2"].sum(1).tolist() == [len('Text "open". ') + 1, 0]
    names = ("encoder_hidden_states", "encoder_attention_mask")
    given = {
        **dict(zip(names, (text["tokens"], text["mask"]), strict=True)),
        **{f"{name}_2": text[key] for name, key in zip(names, ("tokens_2", "mask_2"), strict=True)},
    }
    flow = teacher.network(x_t, 1000 * t, **given, return_dict=False)[0]
    torch.testing.assert_close(teacher(x_t, t, cond), x_t - t.reshape(2, 1, 1, 1) * flow)
    with pytest.raises(UserError, match="network of HunyuanImagePipeline has use_meanflow, which is unknown"):
        teacher.pipeline.pipe.transformer.register_to_config(use_meanflow=True)
        check_parts(teacher.pipeline.pipe)


@torch.no_grad()
def test_a_prompt_of_kandinsky_is_encoded_as_alone_among_one_that_is_too_long(
    folders: PipelineFolders,
) -> None:
    """Its pipeline would shorten all of them then, and fill the shorter ones up without masks."""
    teacher = transformer(folders, "kandinsky5")
    text = teacher.encode_prompts(["a cat", "a very long prompt " * 40]).text
    assert text is not None
    tokens, pooled, seqlens = teacher.pipeline.pipe.encode_prompt(["a cat"])
    count = int(seqlens[1])
    assert text.given["mask"].sum(1).tolist() == [count, 512]
    torch.testing.assert_close(text.given["tokens"][0, :count], tokens[0])
    assert text.given["tokens"][0, count:].abs().max() == 0
    torch.testing.assert_close(text.given["pooled"][:1], pooled)


@torch.no_grad()
def test_no_condition_is_what_the_pipeline_takes_for_none(folders: PipelineFolders) -> None:
    """SD encodes the empty prompt, and SDXL has zeros.

    A guided prediction is one forward pass of twice the batch.
    """
    for family in ("sd15", "sdxl"):
        teacher = distill.load_teacher(folders[family])
        cond, x_t, t = condition(teacher), noise(teacher), torch.tensor([300.0, 600.0])
        none = cond.drop(torch.ones(2, dtype=torch.bool))
        torch.testing.assert_close(teacher(x_t, t, Condition()), teacher(x_t, t, none))
        expected = torch.lerp(teacher(x_t, t, none), teacher(x_t, t, cond), 2.0)
        torch.testing.assert_close(guided(teacher, x_t, t, cond, 2.0).x0, expected, rtol=1e-4, atol=1e-5)
        assert none.text is not None
        assert (none.text.given["tokens"].abs().max() == 0) == (family == "sdxl")


@torch.no_grad()
def test_a_label_for_no_label(folders: PipelineFolders) -> None:
    teacher = Settings(path=str(folders["labels"]), null_label=4).load()
    assert teacher.label_count == 4
    x_t, t = noise(teacher), torch.tensor([300.0, 600.0])
    torch.testing.assert_close(teacher(x_t, t, Condition()), teacher(x_t, t, Condition(torch.tensor([4, 4]))))
    with pytest.raises(
        UserError, match="null_label: is 2; expected null, or the last of the network's 5 classes"
    ):
        Settings(path=str(folders["labels"]), null_label=2).load()
    with pytest.raises(UserError, match="null_label: is not given"):
        distill.load_teacher(folders["labels"])(x_t, t, Condition())
    without = distill.load_teacher(folders["labels"])
    for refused in (
        lambda: without(x_t, t, Condition(torch.tensor([-1, 2]))),
        lambda: guided(without, x_t, t, Condition(torch.tensor([1, 2])), 2.0),
        without.require_unconditional,
    ):
        with pytest.raises(UserError, match="null_label: is not given"):
            refused()
    teacher.require_unconditional()
