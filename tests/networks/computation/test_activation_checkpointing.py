"""Activation checkpointing saves memory and changes no result, to the last bit."""

from __future__ import annotations

import shutil
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from distill.networks.computation.activation_checkpointing import checkpoint_activations, recompute
from distill.networks.edm.edm import DhariwalUNetConfig, EDMNetwork, SongUNetConfig
from distill.networks.edm.edm2 import EDM2Config, EDM2Network
from distill.networks.edm.preconditioning import EDMPrecond
from distill.networks.folder import newest_checkpoint, save_model
from distill.networks.unet import UNet
from distill.storage.tensors import load_tensors
from distill.teachers.diffusers import Settings
from distill.types import Condition, Denoiser
from tests.helpers.diffusers_families import CHECKPOINTED, FAMILIES, size_of
from tests.helpers.diffusers_runs import OBJECTIVES, PROMPTS, run

SIZES: dict[str, Any] = {
    "resolution": 8,
    "channels": 3,
    "label_count": 4,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (4,),
    "dropout": 0.2,
}
OWN: dict[str, Callable[[], Denoiser]] = {
    "unet": lambda: UNet.from_description({**SIZES, "width": 8}),
    "song": lambda: EDMNetwork(SongUNetConfig(**SIZES, width=16), EDMPrecond()),
    "dhariwal": lambda: EDMNetwork(DhariwalUNetConfig(**SIZES, width=64), EDMPrecond()),
    "edm2": lambda: EDM2Network(EDM2Config(**SIZES, width=16, channels_per_head=16)),
}
LORA = {
    "generator": {"network": {"name": "lora", "rank": 4}},
    "fake": {"network": {"name": "lora", "rank": 2}, "updates": 2},
}
FULL: dict[str, Any] = {"generator": {}, "fake": {"updates": 2}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpointing")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def teacher_of(root: Path, name: str) -> dict[str, Any]:
    """Return the settings of a teacher with random weights, which is made on first use."""
    folder = root / name
    if name in FAMILIES:
        path = folder if folder.is_dir() else FAMILIES[name](folder)
        return {"name": "diffusers", "path": str(path), **size_of(name)}
    if not folder.is_dir():
        torch.manual_seed(0)
        network = disturbed(OWN[name]())
        folder.mkdir()
        save_model(network, folder)
    return {"name": "native", "path": str(folder)}


def disturbed(network: Denoiser) -> Denoiser:
    """Move all parameters away from zero, since zeros would hide what comes before them."""
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


def train_two_steps(root: Path, name: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """Run two steps, and return weights, averages and optimiser states.

    Blocks are checkpointed if, and only if, the configuration says so.
    """
    with unittest.mock.patch(
        "distill.networks.computation.activation_checkpointing.checkpoint",
        wraps=torch.utils.checkpoint.checkpoint,
    ) as recomputing:
        checkpoint = newest_checkpoint(run(root, name, {"steps": 2, "checkpoint_every": 2, **config}))
    assert recomputing.called == config.get("activation_checkpointing", False)
    assert checkpoint is not None
    tensors = {file.name: load_tensors(file) for file in checkpoint.glob("*.safetensors")}
    return {f"{file}/{name}": value for file, named in tensors.items() for name, value in named.items()}


def config_of(
    root: Path, teacher: str, objective: str, students: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    depths = ["8", "bottleneck"] if teacher in (*OWN, "ddpm", "sd15", "sdxl") else ["1", "bottleneck"]
    takes_text = teacher in FAMILIES and teacher not in ("ddpm", "dit")
    return {
        "teacher": teacher_of(root, teacher),
        "prompts": {"name": "text_file", "path": str(root / "prompts.txt")} if takes_text else None,
        **{part: {**settings, "optimizer": {"lr": 1e-3}} for part, settings in students.items()},
        "teacher_samples": {"path": str(root / "samples" / teacher), "count": 4, "sampler": {"steps": 2}},
        "discriminator": {
            "reads": "fake",
            "real": "teacher",
            "depths": depths,
            "width": 8,
            "r1": {"weight": 1.0},
        },
        "ratio": {"bins": 2} if "divergence" in OBJECTIVES[objective] else None,
        "objective": {"name": objective, **OBJECTIVES[objective]},
        "terms": [{"name": "gan", "weight": 0.1}],
        **changes,
    }


CASES = [
    ("unet", "copy"),
    ("song", "copy"),
    ("dhariwal", "copy"),
    ("sdxl", "copy"),
    ("sdxl", "lora"),
    ("sd3", "lora"),
]
CASES += [(family, "copy") for family in ("ddpm", "dit", "pixart-alpha", "pixart-sigma", "flux", "sana")]
CASES += [(family, "copy") for family in CHECKPOINTED]
DEFAULT = [
    ("unet", "copy", "expanded_divergence"),
    ("unet", "copy", "score_matching"),
    ("sdxl", "lora", "expanded_divergence"),
]


@pytest.mark.parametrize(
    ("teacher", "students", "objective"),
    [
        pytest.param(*case, objective, marks=() if (*case, objective) in DEFAULT else pytest.mark.slow)
        for case in CASES
        for objective in OBJECTIVES
    ],
)
def test_it_learns_the_same_to_the_last_bit(root: Path, teacher: str, students: str, objective: str) -> None:
    """The run has two fake updates, dropout if the network has any, a GAN term at two depths, and R1."""
    config = config_of(root, teacher, objective, LORA if students == "lora" else FULL)
    name = f"{teacher}-{students}-{objective}"
    plain = train_two_steps(root, name, config)
    checkpointed = train_two_steps(root, f"{name}-checkpointed", {**config, "activation_checkpointing": True})
    assert plain.keys() == checkpointed.keys()
    for key, value in plain.items():
        assert torch.equal(value, checkpointed[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("students", ["lora", "copy"])
def test_it_learns_the_same_in_bfloat16(root: Path, students: str) -> None:
    """Autocast caches casts of weights; the base is bfloat16 too."""
    config = config_of(root, "sdxl", "score_matching", LORA if students == "lora" else FULL, precision="bf16")
    config["teacher"] = {**config["teacher"], "dtype": "bfloat16"}
    config["teacher_samples"] = {**config["teacher_samples"], "path": str(root / "samples" / "bfloat16")}
    plain = train_two_steps(root, f"bf16-{students}", config)
    checkpointed = train_two_steps(
        root, f"bf16-{students}-checkpointed", {**config, "activation_checkpointing": True}
    )
    for key, value in plain.items():
        assert torch.equal(value, checkpointed[key]), key


def test_a_resumed_run_may_turn_it_on(root: Path) -> None:
    config = config_of(root, "unet", "score_matching", FULL, checkpoint_every=1)
    plain = train_two_steps(root, "whole", config)
    run(root, "parts", {**config, "steps": 2, "checkpoint_every": 1})
    shutil.rmtree(root / "runs" / "parts" / "checkpoints" / "step-00000002")
    continued = train_two_steps(root, "parts", {**config, "activation_checkpointing": True})
    for key, value in plain.items():
        assert torch.equal(value, continued[key]), key


@pytest.mark.parametrize("is_hooked", [False, True])
def test_a_block_with_a_forward_hook_is_not_recomputed(is_hooked: bool) -> None:
    block, runs = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.SiLU()), []
    block[0].register_forward_hook(lambda module, inputs, output: runs.append(output.shape))
    if is_hooked:
        block.register_forward_hook(lambda module, inputs, output: None)
    recompute(block, torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert len(runs) == (1 if is_hooked else 2)


def test_a_teacher_in_training_is_checkpointed_too(root: Path) -> None:
    config = {
        "task": "train_teacher",
        "data": {"name": "digits"},
        "network": {"width": 8, "attention": [4], "dropout": 0.1},
    }
    plain, checkpointed = (
        train_two_steps(root, f"teacher-{on}", {**config, "activation_checkpointing": on})
        for on in (False, True)
    )
    for key, value in plain.items():
        assert torch.equal(value, checkpointed[key]), key


def gradients(network: Denoiser, depths: list[str]) -> tuple[list[Tensor], int]:
    """Return the gradients of a prediction and features by input and weights, and the bytes kept for them.

    The features are computed with the prediction, and once more by themselves.
    """
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, *network.image_shape, generator=random, requires_grad=True)
    t = torch.tensor([0.4, 0.9])
    cond = network.encode_prompts(PROMPTS[:2]) if network.takes_text else Condition(torch.tensor([0, 3]))
    own = {value.untyped_storage()._cdata for value in (x, *network.parameters(), *network.buffers())}
    held: dict[int, Tensor] = {}

    def hold(value: Tensor) -> Tensor:
        held.setdefault(value.untyped_storage()._cdata, value)
        return value

    torch.manual_seed(2)
    with saved_tensors_hooks(hold, lambda value: value):
        prediction, features = network(x, t, cond, depths)
        outputs = [prediction, *features.values(), *network.features(x, t, cond, depths).values()]
        total = torch.stack([output.square().mean() for output in outputs]).sum()
    bytes_held = sum(value.untyped_storage().nbytes() for key, value in held.items() if key not in own)
    wanted = [x, *(parameter for parameter in network.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    return [gradient for gradient in found if gradient is not None], bytes_held


@pytest.mark.parametrize("learns", [True, False], ids=["in training", "frozen"])
@pytest.mark.parametrize(
    ("name", "depths", "most"),
    [
        ("unet", ["4"], 0.6),
        ("edm2", ["4"], 0.4),
        ("sdxl", ["8"], 0.5),
        ("sd3", ["1"], 0.9),  # the features are read from one of its two blocks, which is not checkpointed
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("song", ["4"], 0.5), ("dhariwal", ["4"], 0.5), ("ddpm", ["8"], 0.9)]
        ),
        *(
            pytest.param(family, ["2"], 0.8, marks=pytest.mark.slow)
            for family in ("dit", "pixart-sigma", "flux", "sana", *CHECKPOINTED)
        ),
    ],
)
def test_gradients_are_the_same_in_less_memory(
    root: Path, name: str, depths: list[str], most: float, learns: bool
) -> None:
    """The features are read from a checkpointable block, after which the network may stop.

    EDM2 normalises its weights in each forward pass, so that its gradients agree to 1e-6.
    """
    settings = teacher_of(root, name)
    network = Settings(**settings).load() if name in FAMILIES else disturbed(OWN[name]())
    network.train(learns).requires_grad_(learns)
    plain, held = gradients(network, depths)
    checkpoint_activations(network)
    checkpointed, held_less = gradients(network, depths)
    tolerance = 1e-6 if name == "edm2" else 0
    for expected, found in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert held_less < most * held
    checkpoint_activations(network, None)
    assert gradients(network, depths)[1] == held
