"""Teachers of diffusers against diffusers itself: its networks, its schedulers' steps, its pipelines' samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import distill
from distill.errors import UserError
from distill.guidance import guided
from distill.models.pipeline import check_parts, read_scheduler
from distill.samplers import Heun
from distill.sampling import heun
from distill.schedules import DDPM, Flow
from distill.teachers.diffusers import Settings
from distill.types import Condition, Denoiser
from tests import tiny_pipelines

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "ddpm": tiny_pipelines.ddpm,
    "labels": lambda folder: tiny_pipelines.ddpm(folder, classes=5, prediction_type="sample"),
    "sd15": tiny_pipelines.stable_diffusion,
    "sd21": lambda folder: tiny_pipelines.stable_diffusion(folder, prediction_type="v_prediction"),
    "sdxl": tiny_pipelines.stable_diffusion_xl,
}
PROMPTS = ["a cat", "xyz"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: make(root / name) for name, make in FAMILIES.items()}


def noise(teacher: Denoiser, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, *teacher.image_shape, generator=torch.Generator().manual_seed(seed))


def condition(teacher: Denoiser) -> Condition:
    if teacher.takes_text:
        return teacher.encode_prompts(PROMPTS)
    return Condition(torch.tensor([3, 1])) if teacher.label_count else Condition()


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
        added = {"text_embeds": cond.text.given.get("pooled"), "time_ids": cond.text.given.get("ids")}
        inputs = {"encoder_hidden_states": cond.text.given["tokens"], "added_cond_kwargs": added}
    for t in (1, 401, 981):
        output = pipe.unet(x_t, t, **inputs).sample
        x0 = teacher(x_t, torch.full((2,), float(t)), cond)
        for kind in (diffusers.DDIMScheduler, diffusers.DDPMScheduler, diffusers.EulerDiscreteScheduler):
            scheduler = kind.from_config(pipe.scheduler.config, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True)
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
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
    z, cond = noise(teacher), condition(teacher)
    if teacher.takes_text:
        pipe.scheduler = scheduler
        expected = pipe(PROMPTS, latents=z, num_inference_steps=5, guidance_scale=3.0, output_type="pt").images
    else:
        pipe = DDIMPipeline(pipe.unet, scheduler)
        expected = torch.from_numpy(pipe(2, torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np").images).permute(0, 3, 1, 2)

    x, times = z, pipe.scheduler.timesteps.tolist()
    for t, following in zip(times, [*times[1:], None], strict=True):
        time = torch.full((2,), float(t))
        x0 = guided(teacher, x, time, cond, 3.0 if teacher.takes_text else 1.0)[0]
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
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True, timestep_spacing="linspace")
    z = noise(teacher)
    expected = pipe(PROMPTS, latents=z, num_inference_steps=5, guidance_scale=3.0, output_type="pt").images
    levels = pipe.scheduler.sigmas
    sampler = Heun(steps=5, sigma_min=levels[-2].item(), guidance=3.0)
    assert sampler.grid(levels[0].item())[:-1] == pytest.approx([*levels[:1].tolist(), *levels[1:-1:2].tolist()], rel=1e-5)
    x0 = heun(teacher, z, condition(teacher), sampler, lambda step: z)
    torch.testing.assert_close((teacher.decode(x0) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_features_are_the_encoder_s(folders: dict[str, Path], family: str) -> None:
    teacher = distill.load_teacher(folders[family])
    x_t, t, cond, depths = noise(teacher), torch.tensor([3.0, 700.5]), condition(teacher), ("8", "bottleneck")
    x0, features = teacher(x_t, t, cond, depths)
    torch.testing.assert_close(x0, teacher(x_t, t, cond))
    assert {depth: tuple(value.shape[1:]) for depth, value in features.items()} == {"8": (8, 8, 8), "bottleneck": (16, 4, 4)}
    assert teacher.depth_channels == {"8": 8, "4": 16, "bottleneck": 16}
    for depth, value in teacher.features(x_t, t, cond, depths).items():
        torch.testing.assert_close(value, features[depth])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


@torch.no_grad()
def test_no_condition_is_what_the_pipeline_takes_for_none(folders: dict[str, Path]) -> None:
    """SD encodes the empty prompt, SDXL has zeros; both sides of a guided prediction are one pass of twice the batch."""
    for family in ("sd15", "sdxl"):
        teacher = distill.load_teacher(folders[family])
        cond, x_t, t = condition(teacher), noise(teacher), torch.tensor([300.0, 600.0])
        none = cond.without(torch.ones(2, dtype=torch.bool))
        torch.testing.assert_close(teacher(x_t, t, Condition()), teacher(x_t, t, none))
        expected = torch.lerp(teacher(x_t, t, none), teacher(x_t, t, cond), 2.0)
        torch.testing.assert_close(guided(teacher, x_t, t, cond, 2.0)[0], expected, rtol=1e-4, atol=1e-5)
        assert none.text is not None
        assert (none.text.given["tokens"].abs().max() == 0) == (family == "sdxl")
    assert cond.text is not None
    assert cond.text.given["ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2


@torch.no_grad()
def test_a_label_for_no_label(folders: dict[str, Path]) -> None:
    teacher = Settings(path=str(folders["labels"]), null_label=4).load()
    assert teacher.label_count == 4
    x_t, t = noise(teacher), torch.tensor([300.0, 600.0])
    torch.testing.assert_close(teacher(x_t, t, Condition()), teacher(x_t, t, Condition(torch.tensor([4, 4]))))
    with pytest.raises(UserError, match="null_label: is 2; expected null, or the last of the U-Net's 5 classes"):
        Settings(path=str(folders["labels"]), null_label=2).load()
    with pytest.raises(UserError, match="null_label: is not given"):
        distill.load_teacher(folders["labels"])(x_t, t, Condition())


@torch.no_grad()
def test_latents_are_scaled_and_shifted_as_the_pipeline_has_them(folders: dict[str, Path]) -> None:
    teacher: Any = distill.load_teacher(folders["sd15"])
    images, vae = torch.randn(2, *teacher.pixel_shape), teacher.pipeline.vae
    assert (teacher.image_shape, teacher.pixel_shape) == ((4, 8, 8), (3, 16, 16))
    mean = vae.encode(images).latent_dist.mean
    torch.testing.assert_close(teacher.encode(images), mean * 0.18215)
    torch.testing.assert_close(teacher.decode(teacher.encode(images)), vae.decode(mean).sample)
    vae.register_to_config(shift_factor=0.3)
    torch.testing.assert_close(teacher.encode(images), (mean - 0.3) * 0.18215)
    torch.testing.assert_close(teacher.decode(teacher.encode(images)), vae.decode(mean).sample)
    vae.register_to_config(latents_mean=[0.1] * 4, latents_std=[2.0] * 4)
    torch.testing.assert_close(teacher.encode(images), (mean - 0.1) / 2 * 0.18215)


def test_another_resolution(folders: dict[str, Path]) -> None:
    teacher = Settings(path=str(folders["sdxl"]), resolution=32).load()
    assert (teacher.image_shape, teacher.pixel_shape) == ((4, 16, 16), (3, 32, 32))
    with pytest.raises(UserError, match="resolution: 30 is not divisible by 4"):
        Settings(path=str(folders["sdxl"]), resolution=30).load()


def test_schedulers_say_schedule_and_prediction() -> None:
    import diffusers

    schedule, prediction = read_scheduler(diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", **tiny_pipelines.BETAS))
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
    with pytest.raises(UserError, match="U-Net of StableDiffusionPipeline has time_cond_proj_dim, which is unknown here"):
        check_parts(pipe)
    pipe.vae = pipe.unet
    with pytest.raises(UserError, match="StableDiffusionPipeline's autoencoder, UNet2DConditionModel, is unknown here"):
        check_parts(pipe)
    pipe.unet = pipe.text_encoder
    with pytest.raises(UserError, match="StableDiffusionPipeline's denoiser, CLIPTextModel, is unknown here"):
        check_parts(pipe)
    with pytest.raises(UserError, match=r"holds no model_index.json; expected the folder of a diffusers pipeline"):
        Settings(path=str(tmp_path)).load()
    with pytest.raises(UserError, match="--dry-run: a teacher of diffusers is not known without its weights yet"):
        Settings(path=str(tmp_path)).outline()


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_in_a_pickle_are_refused(tmp_path: Path, part: str) -> None:
    folder = tiny_pipelines.stable_diffusion(tmp_path / "teacher")
    weights = next((folder / part).glob("*.safetensors"))
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin" if part == "text_encoder" else f"{weights.stem}.bin"))
    weights.unlink()
    with pytest.raises(UserError, match=f"cannot be opened as a diffusers pipeline .*no file named {weights.name}"):
        Settings(path=str(folder)).load()
