"""Teachers of diffusers against diffusers itself: its networks, its schedulers' steps, its pipelines' samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import distill
from distill.config.errors import UserError
from distill.diffusion.guidance import guided
from distill.diffusion.samplers import Heun
from distill.diffusion.schedules import DDPM, Flow
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.pipeline import check_parts
from distill.networks.diffusers.scheduler import read_scheduler
from distill.teachers.diffusers import Settings
from distill.types import Condition
from tests.helpers import tiny_pipelines
from tests.helpers.diffusers_inputs import PROMPTS, condition, noise

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "ddpm": tiny_pipelines.ddpm,
    "labels": lambda folder: tiny_pipelines.ddpm(folder, classes=5, prediction_type="sample"),
    "sd15": tiny_pipelines.stable_diffusion,
    "sd21": lambda folder: tiny_pipelines.stable_diffusion(folder, prediction_type="v_prediction"),
    "sdxl": tiny_pipelines.stable_diffusion_xl,
}
TRANSFORMERS: dict[str, Callable[[Path], Path]] = {
    "dit": tiny_pipelines.dit,
    "pixart-alpha": tiny_pipelines.pixart_alpha,
    "pixart-sigma": tiny_pipelines.pixart_sigma,
    "sd3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
    "sana": tiny_pipelines.sana,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: make(root / name) for name, make in {**FAMILIES, **TRANSFORMERS}.items()}


def transformer(folders: dict[str, Path], family: str) -> DiffusersNetwork:
    """A teacher of 16x16 images, where its pipeline has a choice."""
    return Settings(path=str(folders[family]), resolution=16 if family == "flux" else None).load()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_its_prediction_is_that_of_a_scheduler_s_step(folders: dict[str, Path], family: str) -> None:
    """The network's own output, stepped by three of diffusers' schedulers, each in its own arithmetic."""
    import diffusers

    teacher = distill.load_teacher(folders[family])
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders[family])
    x_t, cond = noise(teacher), condition(teacher)
    inputs: dict[str, Any] = {"class_labels": cond.label} if teacher.label_count else {}
    if cond.text is not None:
        added = {
            "text_embeds": cond.text.given.get("pooled"),
            "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2),
        }
        inputs = {"encoder_hidden_states": cond.text.given["tokens"], "added_cond_kwargs": added}
    for t in (1, 401, 981):
        output = pipe.unet(x_t, t, **inputs).sample
        x0 = teacher(x_t, torch.full((2,), float(t)), cond)
        for kind in (diffusers.DDIMScheduler, diffusers.DDPMScheduler, diffusers.EulerDiscreteScheduler):
            scheduler = kind.from_config(
                pipe.scheduler.config, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
            )
            scheduler.set_timesteps(50 if t != 401 else 5)
            scheduler.timesteps = scheduler.timesteps - (scheduler.timesteps[0] - t)
            alpha = teacher.schedule.alpha(torch.tensor(float(t)))
            if kind is diffusers.EulerDiscreteScheduler:  # which works in x_t/alpha
                sigma = teacher.schedule.sigma(torch.tensor(float(t))) / alpha
                scheduler.sigmas[0] = sigma
                step = scheduler.step(output, scheduler.timesteps[0], x_t / alpha)
            else:
                step = scheduler.step(output, t, x_t)
            torch.testing.assert_close(x0, step.pred_original_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["ddpm", "sd15", "sd21"])
@torch.no_grad()
def test_a_sample_of_ddim_is_the_pipeline_s(folders: dict[str, Path], family: str) -> None:
    from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline

    teacher = distill.load_teacher(folders[family])
    pipe = DiffusionPipeline.from_pretrained(folders[family])
    scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False
    )
    z, cond = noise(teacher), condition(teacher)
    if teacher.takes_text:
        pipe.scheduler = scheduler
    else:
        pipe = DDIMPipeline(pipe.unet, scheduler)
    expected = tiny_pipelines.call(
        pipe, z, PROMPTS, num_inference_steps=5, **({"guidance_scale": 3.0} if teacher.takes_text else {})
    )

    x, times = z, pipe.scheduler.timesteps.tolist()
    for t, following in zip(times, [*times[1:], None], strict=True):
        time = torch.full((2,), float(t))
        x0 = guided(teacher, x, time, cond, 3.0 if teacher.takes_text else 1.0).x0
        eps = (x - teacher.schedule.alpha(time[0]) * x0) / teacher.schedule.sigma(time[0])
        after = torch.tensor(float(following)) if following is not None else None
        x = x0 if after is None else teacher.schedule.alpha(after) * x0 + teacher.schedule.sigma(after) * eps
    torch.testing.assert_close((teacher.decode(x) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@torch.no_grad()
def test_a_guided_sample_of_our_sampler_is_the_pipeline_s(folders: dict[str, Path], family: str) -> None:
    """diffusers' Heun scheduler on the grid of Karras et al. is the sampler of `teacher_samples` and `sample.py --teacher`."""
    from diffusers import DiffusionPipeline, HeunDiscreteScheduler

    teacher = distill.load_teacher(folders[family])
    pipe = DiffusionPipeline.from_pretrained(folders[family])
    pipe.scheduler = HeunDiscreteScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True, timestep_spacing="linspace"
    )
    z = noise(teacher)
    expected = tiny_pipelines.call(pipe, z, PROMPTS, num_inference_steps=5, guidance_scale=3.0)
    levels = pipe.scheduler.sigmas
    sampler = Heun(steps=5, sigma_min=levels[-2].item(), guidance=3.0)
    assert sampler.grid(levels[0].item())[:-1] == pytest.approx(
        [*levels[:1].tolist(), *levels[1:-1:2].tolist()], rel=1e-5
    )
    x0 = sampler.solve(teacher, z, condition(teacher), lambda step: z)
    torch.testing.assert_close((teacher.decode(x0) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", TRANSFORMERS)
@torch.no_grad()
def test_each_step_of_a_transformer_s_pipeline_is_ours(folders: dict[str, Path], family: str) -> None:
    """Noise, guidance and scheduler are the pipeline's; each of its steps follows from our prediction, and so does the image."""
    import diffusers

    teacher = transformer(folders, family)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders[family])
    if isinstance(teacher.schedule, Flow):
        pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
            pipe.scheduler.config, shift=3.0
        )
    else:
        plain = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **plain)
    steps, own_step = [], pipe.scheduler.step

    def step(output: Tensor, t: Tensor, sample: Tensor, **settings: Any) -> Any:
        result = own_step(output, t, sample, **settings)
        steps.append((t, sample, result[0] if isinstance(result, tuple) else result.prev_sample))
        return result

    pipe.scheduler.step = step
    guidance = {"true_cfg_scale": 3.0, "negative_prompt": ""} if family == "flux" else {"guidance_scale": 3.0}
    z, cond = noise(teacher), condition(teacher)
    expected = tiny_pipelines.call(
        pipe, z, PROMPTS if cond.text else [3, 1], num_inference_steps=4, **guidance
    )

    scale = pipe.scheduler.config.num_train_timesteps if isinstance(teacher.schedule, Flow) else 1

    def ours(x: Tensor, row: int) -> Tensor:
        time = (steps[row][0] / scale).expand(2).float()
        x0 = guided(teacher, x, time, cond, 3.0).x0
        if row == 3:
            return x0
        following = steps[row + 1][0].float() / scale
        eps = (x - teacher.schedule.alpha(time[0]) * x0) / teacher.schedule.sigma(time[0])
        return teacher.schedule.alpha(following) * x0 + teacher.schedule.sigma(following) * eps

    def as_ours(latents: Tensor) -> Tensor:
        if family == "flux":
            return teacher.pipeline.pipe._unpack_latents(latents, 16, 16, 2)
        return latents[:2]  # DiT's pipeline steps both sides of a guided prediction

    x = z
    for row, (_, before, after) in enumerate(steps):
        torch.testing.assert_close(ours(as_ours(before), row), as_ours(after), rtol=1e-5, atol=1e-5)
        x = ours(x, row)
    torch.testing.assert_close((teacher.decode(x) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_features_are_the_encoder_s(folders: dict[str, Path], family: str) -> None:
    teacher = distill.load_teacher(folders[family])
    x_t, t, cond, depths = noise(teacher), torch.tensor([3.0, 700.5]), condition(teacher), ("8", "bottleneck")
    x0, features = teacher(x_t, t, cond, depths)
    torch.testing.assert_close(x0, teacher(x_t, t, cond))
    assert {depth: tuple(value.shape[1:]) for depth, value in features.items()} == {
        "8": (8, 8, 8),
        "bottleneck": (16, 4, 4),
    }
    assert teacher.depth_channels == {"8": 8, "4": 16, "bottleneck": 16}
    for depth, value in teacher.features(x_t, t, cond, depths).items():
        torch.testing.assert_close(value, features[depth])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


@pytest.mark.parametrize("family", ["dit", "sd3", "flux"])
@torch.no_grad()
def test_features_of_a_transformer_are_its_blocks_tokens_of_the_image(
    folders: dict[str, Path], family: str
) -> None:
    """Row by row, those of the text left out; the last block's become the prediction through the network's own last layers."""
    teacher = transformer(folders, family)
    blocks = len(teacher.depth_channels) - 1
    assert teacher.depth_channels == {
        **{str(number): 16 for number in range(1, blocks + 1)},
        "bottleneck": 16,
    }
    x_t, t, cond = noise(teacher), torch.tensor([0.3, 0.7]), condition(teacher)
    depths = ("1", str(blocks), "bottleneck")
    x0, features = teacher(x_t, t, cond, depths)
    torch.testing.assert_close(x0, teacher(x_t, t, cond))
    network, seen = teacher.network, []
    handle = (
        network.norm_out.norm if hasattr(network.norm_out, "norm") else network.norm_out
    ).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    teacher(x_t, t, cond)
    handle.remove()
    assert features["bottleneck"].shape == (2, 16, 4, 4)
    torch.testing.assert_close(features[str(blocks)].flatten(2).mT, seen[0])
    for depth, value in teacher.features(x_t, t, cond, depths).items():
        torch.testing.assert_close(value, features[depth])


@torch.no_grad()
def test_what_a_family_is_told_besides(folders: dict[str, Path]) -> None:
    """PixArt-alpha's sizes, FLUX's guidance, Sana's instruction; a class for no label in DiT, whose labels are not dropped in training."""
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
        len(transformer(folders, "sana").pipeline.prompt_encoder._settings()["complex_human_instruction"])
        == 8
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


@torch.no_grad()
def test_no_condition_is_what_the_pipeline_takes_for_none(folders: dict[str, Path]) -> None:
    """SD encodes the empty prompt, SDXL has zeros; both sides of a guided prediction are one pass of twice the batch."""
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
def test_a_label_for_no_label(folders: dict[str, Path]) -> None:
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


@torch.no_grad()
def test_latents_are_scaled_and_shifted_as_the_pipeline_has_them(folders: dict[str, Path]) -> None:
    teacher: Any = distill.load_teacher(folders["sd15"])
    images, vae = torch.randn(2, *teacher.pixel_shape), teacher.pipeline.pipe.vae
    assert (teacher.image_shape, teacher.pixel_shape) == ((4, 8, 8), (3, 16, 16))
    mean = vae.encode(images).latent_dist.mean
    torch.testing.assert_close(teacher.encode(images), mean * 0.18215)
    torch.testing.assert_close(teacher.decode(teacher.encode(images)), vae.decode(mean).sample)
    vae.register_to_config(shift_factor=0.3)
    torch.testing.assert_close(teacher.encode(images), (mean - 0.3) * 0.18215)
    torch.testing.assert_close(teacher.decode(teacher.encode(images)), vae.decode(mean).sample)
    vae.register_to_config(latents_mean=[0.1] * 4, latents_std=[2.0] * 4)
    torch.testing.assert_close(teacher.encode(images), (mean - 0.1) / 2 * 0.18215)


@torch.no_grad()
def test_an_autoencoder_works_on_a_megapixel_at_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megapixel being 600 pixels here, and an image 256: five images are two, two and one."""
    teacher: Any = distill.load_teacher(folders["sd15"])
    images = torch.randn(5, *teacher.pixel_shape)
    latents = teacher.encode(images)
    pictures = teacher.decode(latents)
    monkeypatch.setattr("distill.networks.diffusers.codec.MEGAPIXEL", 600)
    seen: list[int] = []
    for part in (teacher.pipeline.pipe.vae.encoder, teacher.pipeline.pipe.vae.decoder):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(teacher.encode(images), latents)
    torch.testing.assert_close(teacher.decode(latents), pictures)
    assert seen == [2, 2, 1] * 2


def test_another_resolution(folders: dict[str, Path]) -> None:
    teacher = Settings(path=str(folders["sdxl"]), resolution=32).load()
    assert (teacher.image_shape, teacher.pixel_shape) == ((4, 16, 16), (3, 32, 32))
    with pytest.raises(UserError, match="resolution: 30 is not divisible by 4"):
        Settings(path=str(folders["sdxl"]), resolution=30).load()


def test_schedulers_say_schedule_and_prediction() -> None:
    import diffusers

    schedule, prediction = read_scheduler(
        diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", **tiny_pipelines.BETAS)
    )
    assert isinstance(schedule, DDPM)
    assert (prediction, schedule.t_max) == ("v_prediction", 999.0)
    assert read_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)) == (Flow(), "flow_prediction")
    terminal, _ = read_scheduler(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, **tiny_pipelines.BETAS))
    assert terminal.alpha(torch.tensor(999.0)).item() == pytest.approx(2.0**-12, rel=1e-4)
    with pytest.raises(UserError, match="scheduler KarrasVeScheduler is unknown here"):
        read_scheduler(diffusers.KarrasVeScheduler())
    with pytest.raises(UserError, match="prediction_type 'learned' is unknown here"):
        read_scheduler(diffusers.DDIMScheduler(prediction_type="learned"))


def test_other_parts_are_refused_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folders["sd15"])
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(
        UserError, match="network of StableDiffusionPipeline has time_cond_proj_dim, which is unknown here"
    ):
        check_parts(pipe)
    pipe.vae = pipe.unet
    with pytest.raises(
        UserError, match="StableDiffusionPipeline's autoencoder, UNet2DConditionModel, is unknown here"
    ):
        check_parts(pipe)
    pipe.unet = pipe.text_encoder
    with pytest.raises(UserError, match="StableDiffusionPipeline's denoiser, CLIPTextModel, is unknown here"):
        check_parts(pipe)
    other = SimpleNamespace(unet=None, transformer=SimpleNamespace())
    with pytest.raises(
        UserError,
        match=r"SimpleNamespace's denoiser, SimpleNamespace, is unknown here; expected one of: UNet2DModel",
    ):
        check_parts(other)
    pipe = DiffusionPipeline.from_pretrained(folders["flux"])
    pipe.transformer.register_to_config(in_channels=96)
    with pytest.raises(
        UserError, match="FluxPipeline's network takes 96 channels; expected 16, as its images have"
    ):
        check_parts(pipe)
    with pytest.raises(
        UserError, match=r"holds no model_index.json; expected the folder of a diffusers pipeline"
    ):
        Settings(path=str(tmp_path)).load()
    with pytest.raises(
        UserError, match=r"holds no model_index.json; expected the folder of a diffusers pipeline"
    ):
        Settings(path=str(tmp_path)).meta()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"the configurations of .* cannot be read as a diffusers pipeline's"):
        Settings(path=str(tmp_path)).meta()


@pytest.mark.parametrize("family", ["labels", "sdxl", "pixart-sigma", "sd3", "flux", "sana"])
def test_an_outline_needs_neither_weights_nor_tokenizers(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    shutil.copytree(
        folders[family], tmp_path / "outline", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*")
    )
    teacher, meta = (
        Settings(path=str(folders[family])).load(),
        Settings(path=str(tmp_path / "outline")).meta(),
    )
    sizes = {name: tuple(value.shape) for name, value in teacher.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in meta.state_dict().items()} == sizes
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert (meta.image_shape, meta.schedule) == (teacher.image_shape, teacher.schedule)
    assert meta.frozen_components().keys() == teacher.frozen_components().keys()
    if teacher.takes_text:
        text = teacher.encode_prompts(PROMPTS).text
        assert text is not None
        # A tiny CLIP has 16 tokens, where that of all pipelines has 77.
        clip = 61 if family in ("sdxl", "sd3") else 0
        shapes = {name: tuple(value.shape[1:]) for name, value in text.given.items()}
        assert meta.prompt_encoder.shapes() == {
            **shapes,
            "tokens": (shapes["tokens"][0] + clip, shapes["tokens"][1]),
        }


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", [859_520_964, 83_653_863, 123_060_480]),
        ("stabilityai/stable-diffusion-xl-base-1.0", [2_567_463_684, 83_653_863, 123_060_480, 694_659_840]),
    ],
)
def test_the_published_pipelines_are_of_the_published_sizes(name: str, sizes: list[int]) -> None:
    meta = Settings(path=name).meta()
    parts = [meta.network, *meta.frozen_components().values()]
    assert [sum(parameter.numel() for parameter in part.parameters()) for part in parts] == sizes


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_in_a_pickle_are_refused(tmp_path: Path, part: str) -> None:
    folder = tiny_pipelines.stable_diffusion(tmp_path / "teacher")
    weights = next((folder / part).glob("*.safetensors"))
    torch.save(
        load_file(weights),
        weights.with_name("pytorch_model.bin" if part == "text_encoder" else f"{weights.stem}.bin"),
    )
    weights.unlink()
    with pytest.raises(
        UserError, match=f"cannot be opened as a diffusers pipeline .*no file named {weights.name}"
    ):
        Settings(path=str(folder)).load()
