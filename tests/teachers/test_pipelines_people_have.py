"""Unusual pipelines: pruned, without a text encoder, or with autoencoders that overflow in half precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.images import check_images
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.samples import computing, save_samples
from distill.teachers.diffusers import Settings
from distill.types import Condition
from tests.helpers import tiny_pipelines


def pruned(folder: Path) -> Path:
    """Save a Stable Diffusion whose U-Net has no middle block, like small-sd and BK-SDM tiny."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    parts = {
        "text_encoder": tiny_pipelines.text_encoder(),
        "tokenizer": tiny_pipelines.tokenizer(),
        "unet": tiny_pipelines.unet(mid_block_type=None),
        "vae": tiny_pipelines.autoencoder(),
        "scheduler": PNDMScheduler(**tiny_pipelines.BETAS, steps_offset=1),
    }
    return tiny_pipelines.saved(
        StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        ),
        folder,
    )


def test_a_network_without_a_middle_block_offers_no_bottleneck(tmp_path: Path) -> None:
    network = Settings(path=str(pruned(tmp_path / "pipe")), resolution=16).load()
    assert list(network.depth_channels) == ["8", "4"]
    cond = network.encode_prompts(["a cat"])
    x0, features = network(torch.zeros(1, 4, 8, 8), torch.tensor([500.0]), cond, ("4",))
    assert x0.shape == (1, 4, 8, 8)
    assert features["4"].shape[1] == network.depth_channels["4"]


def test_every_depth_that_is_offered_is_there(tmp_path: Path) -> None:
    for family in ("ddpm", "stable_diffusion", "stable_diffusion_xl", "pixart_alpha", "stable_diffusion_3"):
        folder = getattr(tiny_pipelines, family)(tmp_path / family)
        network = Settings(path=str(folder)).load()
        cond = network.encode_prompts(["a cat"]) if network.takes_text else Condition()
        features = network.features(
            torch.zeros(1, *network.image_shape), torch.tensor([0.5]), cond, tuple(network.depth_channels)
        )
        assert {name: value.shape[1] for name, value in features.items()} == network.depth_channels


def without(folder: Path, *names: str) -> Path:
    """Save the pipeline without some of its optional components."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(names))
    return tiny_pipelines.saved(pipe, folder.with_name(f"{folder.name}-pruned"))


def test_stable_diffusion_3_is_read_without_its_t5(tmp_path: Path) -> None:
    folder = without(tiny_pipelines.stable_diffusion_3(tmp_path / "pipe"), "text_encoder_3", "tokenizer_3")
    network = Settings(path=str(folder)).load()
    cond = network.encode_prompts(["a cat", "two dogs"])
    assert cond.text is not None
    assert cond.text.given["tokens"].shape[-1] == network.prompt_encoder.shapes()["tokens"][-1]
    x0 = network(torch.zeros(2, *network.image_shape), torch.full((2,), 0.5), cond)
    assert x0.isfinite().all()
    assert not torch.equal(x0[0], x0[1])


@torch.no_grad()
def test_prompts_of_stable_diffusion_3_without_its_t5_may_be_cached(tmp_path: Path) -> None:
    """T5's tokens are zeros, as in the pipeline, whose image in one step is ours."""
    folder = without(tiny_pipelines.stable_diffusion_3(tmp_path / "pipe"), "text_encoder_3", "tokenizer_3")
    network = Settings(path=str(folder)).load()
    assert network.prompt_encoder is not None
    prompts = EncodedPrompts.by(network.prompt_encoder, ["a cat", "two dogs"], tmp_path / "cache")
    first = prompts.balanced(2)
    again = EncodedPrompts.by(network.prompt_encoder, ["a cat", "two dogs"], tmp_path / "cache")
    again.encode = None  # type: ignore[assignment] # the cache has them
    text = again._read(["a cat", "two dogs"])
    assert first.text is not None
    for row, encoded in enumerate(text.values()):
        assert encoded["tokens"].shape == (1, 16 + 256, 32)
        assert torch.equal(encoded["tokens"][0], first.text.given["tokens"][row])
        assert encoded["tokens"][0, 16:].abs().max() == 0
    z = torch.randn(2, *network.image_shape)
    x0 = network(z, torch.ones(2), first)
    pipe = open_pipeline(str(folder), "teacher.path")
    expected = tiny_pipelines.call(pipe, z, ["a cat", "two dogs"], num_inference_steps=1, guidance_scale=0)
    torch.testing.assert_close((network.decode(x0) / 2 + 0.5).clamp(0, 1), expected, rtol=0, atol=1e-5)


def test_stable_diffusion_3_encodes_no_prompts_without_its_clips(tmp_path: Path) -> None:
    """Neither does its pipeline."""
    folder = tiny_pipelines.stable_diffusion_3(tmp_path / "pipe")
    for missing in (("text_encoder", "text_encoder_2"), ("text_encoder", "text_encoder_2", "text_encoder_3")):
        network = Settings(path=str(without(folder, *missing))).load()
        with pytest.raises(
            UserError,
            match=rf"^teacher.path: StableDiffusion3Pipeline was saved without {' and '.join(missing)};",
        ):
            network.encode_prompts(["a cat"])


def test_a_text_encoder_that_the_network_needs_is_named(tmp_path: Path) -> None:
    folder = without(tiny_pipelines.stable_diffusion_xl(tmp_path / "pipe"), "text_encoder", "tokenizer")
    network = Settings(path=str(folder)).load()
    with pytest.raises(UserError, match=r"give tokens of 16 numbers; expected 24: a text encoder is missing"):
        network.encode_prompts(["a cat"])


def hot(folder: Path, times: float) -> Path:
    """Scale the pipeline's autoencoder until its activations overflow in half precision."""
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in ("decoder.conv_in.weight", "decoder.conv_in.bias"):
        tensors[name] = tensors[name] * times
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def test_an_autoencoder_that_half_precision_cannot_hold_decodes_in_float32(tmp_path: Path) -> None:
    network = Settings(
        path=str(hot(tiny_pipelines.stable_diffusion_xl(tmp_path / "pipe"), 1e6)), resolution=16
    ).load()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = network.decode(latents)
    with computing(network, "float16"):
        found = network.decode(latents)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected)


def test_images_that_are_no_numbers_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    images = torch.zeros(3, 1, 2, 2)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(
        UserError, match=r"--out .*out: 1 of 3 images have values that are not finite, first image 1"
    ):
        save_samples(images, [0, 1, 2], Condition(), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()
    check_images(images[[0, 2]], "x")


def test_a_student_of_a_hot_autoencoder_samples_in_half_precision(tmp_path: Path) -> None:
    network = Settings(
        path=str(hot(tiny_pipelines.stable_diffusion_xl(tmp_path / "pipe"), 1e6)), resolution=16
    ).load()
    student = FewStepGenerator(network, 80.0).eval()
    cond = network.encode_prompts(["a cat"])
    with torch.no_grad(), computing(student, "float16"):
        images = student.decode(student(torch.randn(1, *student.noise_shape), cond))
    save_samples(images, [0], Condition(), tmp_path / "out", {})
    assert np.asarray(Image.open(tmp_path / "out" / "000000.png")).std() > 0
