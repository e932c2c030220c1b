"""Predictions and samples of diffusers teachers against the schedulers and pipelines of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import distill
from distill.diffusion.guidance import guided
from distill.diffusion.samplers import Heun
from distill.diffusion.schedules import Flow
from tests.helpers import latent_layouts, tiny_pipelines
from tests.helpers.diffusers_families import TRANSFORMERS, UNETS
from tests.helpers.diffusers_inputs import PROMPTS, PipelineFolders, condition, noise, transformer

GUIDED: dict[str, dict[str, Any]] = {
    "flux": {"true_cfg_scale": 3.0, "negative_prompt": ""},
    "lumina2": {"guidance_scale": 3.0, "cfg_normalization": False},
    "z-image": {"guidance_scale": 2.0},  # what it adds to 1
    "flux2": {},
    "qwen-image": {},
    "longcat-image": {"guidance_scale": 3.0, "enable_cfg_renorm": False, "enable_prompt_rewrite": False},
    "hunyuan-image": {"negative_prompt": ["", ""]},
}
"""Arguments with which a pipeline guides by 3, where they are not `guidance_scale=3`; empty ones if it
has none, or guides by another rule."""


@pytest.mark.parametrize("family", UNETS)
@torch.no_grad()
def test_its_prediction_is_that_of_a_scheduler_s_step(folders: PipelineFolders, family: str) -> None:
    """Three schedulers of diffusers step the network's own output, each in its own arithmetic."""
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
def test_a_sample_of_ddim_is_the_pipeline_s(folders: PipelineFolders, family: str) -> None:
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


@pytest.mark.parametrize("family", ["sd15", "sdxl", "kolors"])
@torch.no_grad()
def test_a_guided_sample_of_our_sampler_is_the_pipeline_s(folders: PipelineFolders, family: str) -> None:
    """diffusers' Heun scheduler on the grid of Karras et al. is our sampler."""
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
def test_each_step_of_a_transformer_s_pipeline_is_ours(folders: PipelineFolders, family: str) -> None:
    """Each step of the pipeline, with its guidance and scheduler, follows from our prediction.

    So does the image.
    """
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
        steps.append((sample, result[0] if isinstance(result, tuple) else result.prev_sample))
        return result

    pipe.scheduler.step = step
    if hasattr(pipe, "guider"):
        pipe.guider = pipe.ocr_guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    guidance = GUIDED.get(family, {"guidance_scale": 3.0})
    own_scale = 3.0 if guidance else 1.0
    z, cond = noise(teacher), condition(teacher)
    expected = tiny_pipelines.call(
        pipe, z, PROMPTS if cond.text else [3, 1], num_inference_steps=4, **guidance
    )

    # The network of CogView 4 gets other times than these.
    times = pipe.scheduler.sigmas if isinstance(teacher.schedule, Flow) else pipe.scheduler.timesteps

    def ours(x: Tensor, row: int) -> Tensor:
        time = times[row].expand(2).float()
        x0 = guided(teacher, x, time, cond, own_scale).x0
        if row == 3:
            return x0
        following = times[row + 1].float()
        eps = (x - teacher.schedule.alpha(time[0]) * x0) / teacher.schedule.sigma(time[0])
        return teacher.schedule.alpha(following) * x0 + teacher.schedule.sigma(following) * eps

    # A pipeline that is called with one prompt after another has four steps for each.
    steps = [tuple(map(torch.cat, zip(*steps[row::4], strict=True))) for row in range(4)]

    def as_ours(latents: Tensor) -> Tensor:
        # DiT's pipeline steps both sides of a guided prediction.
        return latent_layouts.ours(pipe, latents[:2], teacher.image_shape)

    x = z
    for row, (before, after) in enumerate(steps):
        torch.testing.assert_close(ours(as_ours(before), row), as_ours(after), rtol=1e-5, atol=1e-5)
        x = ours(x, row)
    torch.testing.assert_close((teacher.decode(x) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-5)
