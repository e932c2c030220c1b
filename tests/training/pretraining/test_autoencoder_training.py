"""Autoencoders are trained, and exported as diffusers opens them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.config.errors import UserError
from distill.data.sources.array import read_array
from distill.networks.diffusers.autoencoders.autoencoder import Autoencoder
from distill.networks.diffusers.autoencoders.codec import PipelineCodec
from distill.networks.folder import checkpoints, load_generator
from distill.publishing.run_sources import load_run_teacher
from distill.training.batches import Batch
from distill.training.pretraining.autoencoder import autoencoder_losses, scaling_factor
from distill.types import Condition
from tests.helpers.configured_pipelines import AUTOENCODER, autoencoder, make_parts, text_to_image
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    read_lines,
    refusal,
    train_run,
    write_run,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    return train_run(write_run(root, **autoencoder(root, run_dir=str(root / "run"))))


@torch.no_grad()
def test_latents_of_the_exported_autoencoder_have_unit_variance(root: Path, run: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(run / "export")
    images = read_array(root / "images.npz").batch(torch.arange(10))[0]
    latents = PipelineCodec(vae, torch.float32).encode(images)
    assert latents.shape == (10, 4, 8, 8)
    assert latents.std().item() == pytest.approx(1, rel=1e-3)
    assert vae.config.scaling_factor != pytest.approx(0.18215, rel=1e-2)
    average = {
        name.partition(":vae.")[2]: value
        for name, value in checkpoint_tensors(run).items()
        if name.startswith("model.safetensors:")
    }
    assert_same_tensors(vae.state_dict(), average)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_losses_are_the_closed_form(kind: Any) -> None:
    network = Autoencoder.build(AUTOENCODER, (3, 16, 16), seed=1)
    images, eps = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)
    batch = Batch(z=eps, cond=Condition(), u=eps[:, 0, 0, 0], eps=eps, u_fake=eps, eps_fake=eps, real=images)
    losses = autoencoder_losses(network, batch, kind, 0.01)
    posterior = network.vae.encode(images).latent_dist
    error = network.vae.decode(posterior.mean + posterior.std * eps).sample - images
    expected = error.abs().mean() if kind == "l1" else error.square().mean()
    torch.testing.assert_close(losses["reconstruction"], expected)
    torch.testing.assert_close(losses["kl"], 0.01 * posterior.kl().sum() / images.numel())


def test_the_scaling_factor_is_one_over_the_deviation_of_all_latents(root: Path) -> None:
    network, data = Autoencoder.build(AUTOENCODER, (3, 16, 16), seed=1), read_array(root / "images.npz")
    latents = network.latents(data.batch(torch.arange(10))[0])
    found = scaling_factor(network, data, torch.device("cpu"))
    assert found == pytest.approx(1 / latents.std(correction=0).item(), rel=1e-5)


def test_training_lowers_the_error(root: Path, run: Path) -> None:
    lines = read_lines(train_run(write_run(root, **autoencoder(root, run_dir=str(root / "run")))))
    assert lines == read_lines(run)
    assert set(lines[0]) >= {"loss/reconstruction", "loss/kl", "grad_norm/autoencoder"}
    assert lines[-1]["loss/reconstruction"] < lines[0]["loss/reconstruction"]


def test_an_interrupted_run_ends_to_the_bit_as_one_that_was_not(
    root: Path, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(checkpoints(tmp_path / "run")[-1])
    shutil.rmtree(tmp_path / "run" / "export")
    again = train_run(write_run(tmp_path, **autoencoder(root)))
    assert_same_tensors(checkpoint_tensors(again), checkpoint_tensors(run))
    configs = [json.loads((folder / "export" / "config.json").read_text()) for folder in (again, run)]
    assert configs[0] == configs[1]


def test_a_teacher_works_in_the_latents_of_a_run_that_trained_an_autoencoder(
    root: Path, run: Path, tmp_path: Path
) -> None:
    settings = text_to_image(root, steps=1)
    settings["pipeline"]["parts"]["vae"] = str(run)
    teacher = train_run(write_run(tmp_path, **settings))
    weights = "diffusion_pytorch_model.safetensors"
    assert (teacher / "export" / "vae" / weights).read_bytes() == (run / "export" / weights).read_bytes()


def test_an_autoencoder_is_no_student(run: Path) -> None:
    with pytest.raises(UserError, match=r"export: holds AutoencoderKL of diffusers; expected a generator"):
        load_generator(run)


def test_a_run_that_trained_an_autoencoder_has_no_teacher(run: Path) -> None:
    with pytest.raises(UserError, match="trained an autoencoder; expected a run that has a teacher"):
        load_run_teacher(run)


REFUSED = {
    "key": ({"latent_chanels": 4}, "AutoencoderKL has no setting 'latent_chanels'; did you mean 'latent_ch"),
    "levels": ({"block_out_channels": []}, "network.block_out_channels: expected channels of each level"),
    "size": ({"block_out_channels": [4] * 6}, "expected a factor that divides the images' 16 pixels"),
    "channels": ({"in_channels": 1}, "network.in_channels: is 1; expected 3, as the images have"),
    "sample_size": ({"sample_size": 32}, "network.sample_size: is 32; expected 16, as the images have"),
    "scale": ({"scaling_factor": 0.2}, "network.scaling_factor: is measured after training; expected none"),
    "class": (
        {"class_name": "AutoencoderDC"},
        "network.class_name: is AutoencoderDC; expected AutoencoderKL, or none",
    ),
    "no latents": ({"latent_channels": 0}, "network.latent_channels: is 0; expected at least 1"),
    "text": ({"latent_channels": "4"}, "network.latent_channels: is the text '4'; expected int"),
    "groups": ({"norm_num_groups": 3}, "network: num_channels (4) must be divisible by num_groups (3)"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_go_together_are_refused(
    root: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = write_run(tmp_path, **autoencoder(root, network={**AUTOENCODER, **change}))
    assert message in refusal(file)
    assert not (tmp_path / "run").exists()


def test_sharding_is_refused(root: Path, tmp_path: Path) -> None:
    file = write_run(tmp_path, **autoencoder(root, sharding={"strategy": "full"}))
    assert "sharding.strategy: is full; expected none, since every process holds" in refusal(file)


@pytest.mark.parametrize("source", ["{run}", "{run}/export", "{run}/checkpoints/{step}", "{root}/vae"])
def test_an_autoencoder_starts_from_another(root: Path, run: Path, tmp_path: Path, source: str) -> None:
    from diffusers import AutoencoderKL

    folder = Path(source.format(run=run, root=root, step=checkpoints(run)[-1].name))
    changes: dict[str, Any] = {"optimizer": {"lr": 1e-12}, "init_from": str(folder)}
    vae = AutoencoderKL.from_pretrained(root / "vae" if folder == root / "vae" else run / "export")
    if folder == root / "vae":
        changes["network"] = {
            name: vae.config[name] for name in ("block_out_channels", "layers_per_block", "norm_num_groups")
        }
    started = train_run(write_run(tmp_path, **autoencoder(root, run_dir=str(tmp_path / "run"), **changes)))
    found = AutoencoderKL.from_pretrained(started / "export").state_dict()
    assert found.keys() == vae.state_dict().keys()
    for name, value in vae.state_dict().items():
        torch.testing.assert_close(found[name], value)


def test_a_start_of_another_kind_is_refused(root: Path, tmp_path: Path) -> None:
    file = write_run(tmp_path, **autoencoder(root, init_from=str(tmp_path)))
    assert refusal(file) == (
        f"init_from: {tmp_path} holds no autoencoder; expected a run that trains one, or a folder of "
        "AutoencoderKL of diffusers"
    )
