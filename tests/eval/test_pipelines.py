"""Images of diffusers pipelines: what the pipeline makes of the same prompt and seed, in any batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import to_bytes
from distill.data.sources.digits import Settings as Digits
from distill.eval.__main__ import main
from distill.eval.fid.evaluation import repeated_prompts
from distill.eval.images.pipelines import PipelineImages
from distill.networks.diffusers.opening.folders import open_pipeline
from tests.helpers import tiny_pipelines

PROMPTS = ("a cat", "a dog and a cat", "a house")


def stable_diffusion(folder: Path) -> Path:
    """With a scheduler of which three steps are enough."""
    return tiny_pipelines.stable_diffusion(folder, kind="DDIMScheduler", clip_sample=False)


def opened(folder: Path) -> Any:
    pipe = open_pipeline(str(folder), "--pipeline")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels(images: PipelineImages) -> Tensor:
    found = list(images.read(range(len(images))))
    assert all(isinstance(image, Tensor) for image in found)
    return torch.stack(found).int()  # type: ignore[arg-type]


@pytest.mark.parametrize(("make", "inputs"), [
    (stable_diffusion, lambda row: {"prompt": PROMPTS[row % 3], "guidance_scale": 3.0}),
    (tiny_pipelines.dit, lambda row: {"class_labels": [row], "guidance_scale": 3.0}),
    (tiny_pipelines.ddpm, lambda row: {}),
])  # fmt: skip
def test_they_are_the_pipeline_s_own(
    tmp_path: Path, make: Callable[[Path], Path], inputs: Callable[[int], dict[str, Any]]
) -> None:
    pipe = opened(make(tmp_path / "pipe"))
    settings: dict[str, Any] = {"num_inference_steps": 3, **({"guidance_scale": 3.0} if inputs(0) else {})}
    prompts = PROMPTS if "prompt" in inputs(0) else ()
    found = {size: pixels(PipelineImages(pipe, 4, 7, prompts, size, **settings)) for size in (1, 3)}
    assert (
        found[1] - found[3]
    ).abs().max() <= 1  # the last digit of a network depends on the batch, and then a rounding may
    for row, image in enumerate(found[1]):
        own = pipe(
            **inputs(row), num_inference_steps=3, generator=torch.Generator().manual_seed(7 + row)
        ).images[0]
        expected = np.array(own).reshape(image.shape[1], image.shape[2], -1)
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(expected).int())


def test_what_they_depend_on(tmp_path: Path) -> None:
    first, again, other = (
        opened(tiny_pipelines.stable_diffusion(tmp_path / name)) for name in ("a", "b", "c")
    )
    with torch.no_grad():
        other.vae.decoder.conv_out.bias += 0.1
    described = PipelineImages(first, 4, 0, PROMPTS).describe()
    assert PipelineImages(again, 4, 0, PROMPTS).describe() == described
    first.scheduler.register_to_config(beta_end=0.02)
    different = [
        (other, PROMPTS, {}),
        (first, PROMPTS, {}),
        (again, PROMPTS[:2], {}),
        (again, PROMPTS, {"num_inference_steps": 3}),
    ]
    assert all(
        PipelineImages(pipe, 4, 0, prompts, **settings).describe() != described
        for pipe, prompts, settings in different
    )


def test_prompts_that_are_fewer_than_the_images_are_named(tmp_path: Path) -> None:
    pipe = opened(tiny_pipelines.stable_diffusion(tmp_path / "pipe"))
    assert repeated_prompts(PipelineImages(pipe, 3, 0, PROMPTS)) == []
    assert repeated_prompts(PipelineImages(pipe, 4, 0, PROMPTS)) == [
        "generated: 3 prompts for 4 images, taken in turn"
    ]


def test_on_the_command_line(tmp_path: Path) -> None:
    tiny_pipelines.ddpm(tmp_path / "pipe")
    np.savez(tmp_path / "real.npz", images=to_bytes(Digits().load("train").images[:20]).numpy())
    arguments = [
        "fid",
        "--pipeline",
        str(tmp_path / "pipe"),
        "--steps",
        "2",
        "--reference",
        str(tmp_path / "real.npz"),
        "--n",
        "20",
    ]
    main(
        [
            *arguments,
            "--bootstrap",
            "0",
            "--features",
            str(tmp_path / "features"),
            "--out",
            str(tmp_path / "fid.json"),
            "--device",
            "cpu",
        ]
    )
    results = json.loads((tmp_path / "fid.json").read_text())
    assert results["source"]["class"] == "DDPMPipeline"
    assert results["source"]["settings"] == {"num_inference_steps": 2}
    assert results["first_seeds"] == [0]
    assert results["summary"]["fd"]["mean"] > 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    text, labels = (
        opened(tiny_pipelines.stable_diffusion(tmp_path / "text")),
        opened(tiny_pipelines.ddpm(tmp_path / "labels")),
    )
    with pytest.raises(
        UserError, match=r"^--prompts: the StableDiffusionPipeline takes text; expected a file of prompts$"
    ):
        PipelineImages(text, 4)
    with pytest.raises(UserError, match=r"^--prompts: the DDPMPipeline takes no text; leave them out$"):
        PipelineImages(labels, 4, 0, PROMPTS)
    with pytest.raises(
        UserError, match=r"^--pipeline: the DDPMPipeline takes no guidance_scale; leave it out$"
    ):
        PipelineImages(labels, 4, guidance_scale=3.0)
    with torch.no_grad():
        labels.unet.conv_out.bias += float("nan")
    found = list(PipelineImages(labels, 2, num_inference_steps=2).read([0, 1]))
    assert [str(error) for error in found] == [
        f"the DDPMPipeline: the image of seed {seed} has values that are not finite" for seed in (0, 1)
    ]
