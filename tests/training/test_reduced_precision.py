"""A teacher in bfloat16: frozen parameters take half the memory; trained and exported ones are float32."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import distill
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import ADAPTERS, newest_checkpoint
from distill.publishing.export import export_generator
from distill.storage.tensors import load_tensors
from distill.students.copy import Student as Copy
from distill.students.lora import Student as LoRA
from distill.teachers.diffusers import Settings
from distill.training.optimization.ema import EMA
from tests.helpers import tiny_pipelines
from tests.helpers.diffusers_families import FAMILIES, FLOW, FURTHER, size_of
from tests.helpers.diffusers_inputs import condition, noise
from tests.helpers.diffusers_runs import OBJECTIVES, PROMPTS, image_of_diffusers, image_of_ours, run

TOLERANCE = 0.06
"""Relative error: 1/256 for one number of bfloat16, a few times that through the layers of these networks."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reduced")
    tiny_pipelines.stable_diffusion_xl(root / "sdxl")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def types(tensors: Any) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors}


def differ(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of a - b, relative to that of b."""
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


@pytest.mark.parametrize(
    "family",
    [
        "ddpm",
        "sdxl",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("sd15", "dit", "pixart-sigma", "sd3", "flux", "sana", *FURTHER)
        ),
    ],
)
@torch.no_grad()
def test_predictions_in_bfloat16_agree_with_float32(family: str, tmp_path: Path) -> None:
    """Latents, images, prompts, predictions and features are float32 nevertheless."""
    source = {"path": str(FAMILIES[family](tmp_path / family)), **size_of(family)}
    whole, reduced = Settings(**source).load(), Settings(**source, dtype="bfloat16").load()
    parts = [reduced.network, *reduced.frozen_components().values()]
    assert types(parameter for part in parts for parameter in part.parameters()) == {torch.bfloat16}
    cond = condition(reduced)
    if cond.text is not None:
        given = [value for value in cond.text.given.values() if value.is_floating_point()]
        assert types(given) == {torch.float32}
        assert differ(cond.text.given["tokens"], condition(whole).text.given["tokens"]) < TOLERANCE
    depths = list(reduced.depth_channels)[:2]
    x_t, t = noise(reduced), torch.tensor([0.2, 0.7] if family in FLOW else [200.0, 700.0])
    (x0, features), (expected, expected_features) = (
        network(x_t, t, cond, depths) for network in (reduced, whole)
    )
    assert types([x0, *features.values()]) == {torch.float32}
    assert 0 < differ(x0, expected) < TOLERANCE
    for depth in depths:
        assert differ(features[depth], expected_features[depth]) < TOLERANCE
    images = torch.rand(2, *reduced.pixel_shape) * 2 - 1
    latents = reduced.encode(images)
    assert differ(latents, whole.encode(images)) < TOLERANCE
    assert differ(reduced.decode(latents), whole.decode(latents)) < TOLERANCE
    assert types([latents, reduced.decode(latents)]) == {torch.float32}


@pytest.mark.parametrize("autocast", [False, True])
def test_adapters_are_trained_in_float32_on_a_base_of_bfloat16(root: Path, autocast: bool) -> None:
    """Gradients are those on a base of float32, up to rounding; the average is float32 too."""
    found = []
    for dtype in ("float32", "bfloat16"):
        teacher = Settings(path=str(root / "sdxl"), dtype=dtype).load()
        torch.manual_seed(0)
        student = LoRA(rank=4).build(teacher, 80.0)
        for adapter in student.denoiser.adapters():
            adapter.data.copy_(0.1 * torch.randn(adapter.shape))
        z = torch.randn(2, *student.image_shape, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            student(z, teacher.encode_prompts(PROMPTS[:2])).square().mean().backward()
        gradients = [adapter.grad for adapter in student.denoiser.adapters()]
        assert types(gradients) == types(student.denoiser.adapters()) == {torch.float32}
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert found[1].isfinite().all()
    assert differ(found[1], found[0]) < TOLERANCE
    average = EMA(student, 0.5).average
    assert types(average.denoiser.adapters()) == {torch.float32}
    first, base = next(average.parameters()), next(teacher.parameters())
    assert first is base
    assert base.dtype == torch.bfloat16


def test_a_student_trained_in_full_is_float32(root: Path) -> None:
    teacher = Settings(path=str(root / "sdxl"), dtype="bfloat16").load()
    student = Copy().build(teacher, 80.0)
    assert types(student.parameters()) == {torch.float32}
    assert types(teacher.parameters()) == {torch.bfloat16}
    assert all(
        torch.equal(mine, theirs.float())
        for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True)
    )
    assert student.denoiser.describe()["dtype"] == "float32"
    double = distill.load_teacher("assets/digits-teacher").double()
    assert types(Copy().build(double, 80.0).parameters()) == {torch.float64}


@pytest.mark.parametrize(
    ("students", "objective", "precision"),
    [
        pytest.param(*case, marks=() if case == ("lora", "score_matching", "bf16") else pytest.mark.slow)
        for case in itertools.product(("lora", "copy"), OBJECTIVES, ("fp32", "bf16"))
    ],
)
def test_a_run_resumes_bit_for_bit_and_leaves_float32(
    root: Path, students: str, objective: str, precision: str
) -> None:
    """The run has a discriminator and guidance, and is resumed after two of its three steps."""
    name = f"{students}-{objective}-{precision}"
    config = {
        "teacher": {"name": "diffusers", "path": str(root / "sdxl"), "dtype": "bfloat16"},
        "prompts": {"name": "text_file", "path": str(root / "prompts.txt")},
        "generator": {"network": {"name": students}, "ema": 0.5, "optimizer": {"lr": 1e-3}},
        "fake": {"network": {"name": students}},
        "teacher_samples": {"path": str(root / "samples"), "count": 4, "sampler": {"steps": 2}},
        "discriminator": {"reads": "fake", "real": "teacher", "width": 8},
        "ratio": {"bins": 2} if "divergence" in OBJECTIVES[objective] else None,
        "objective": {"name": objective, **OBJECTIVES[objective]},
        "terms": [{"name": "gan", "weight": 0.1}],
        "guidance": {"teacher": 2.0},
        "precision": precision,
        "activation_checkpointing": True,
        "checkpoint_every": 1,
        "keep_checkpoints": 2,
    }
    whole = newest_checkpoint(run(root, name, config))
    parts = run(root, f"{name}-parts", config)
    shutil.rmtree(parts / "checkpoints" / "step-00000003")
    shutil.rmtree(parts / "export")
    continued = newest_checkpoint(run(root, f"{name}-parts", config))
    assert whole is not None
    assert continued is not None
    for file in whole.glob("*.safetensors"):
        assert file.read_bytes() == (continued / file.name).read_bytes(), file.name
        if file.name not in ("ratio.safetensors", "calibration.safetensors"):  # which count in float64
            assert types(load_tensors(file).values()) == {torch.float32}, file.name
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        image_of_ours(distill.load_generator(whole), z), image_of_ours(distill.load_generator(parts), z)
    )


def test_an_export_is_float32_throughout(root: Path, tmp_path: Path) -> None:
    """A student trained in full is exported with the teacher's other components, adapters as one file."""
    teacher = Settings(path=str(root / "sdxl"), dtype="bfloat16").load()
    for name, kind in {"full": Copy(), "adapters": LoRA(rank=4)}.items():
        (tmp_path / name).mkdir()
        export_generator(kind.build(teacher, 80.0), tmp_path / name)
        files = list((tmp_path / name).rglob("*.safetensors"))
        assert len(files) == (4 if name == "full" else 1)
        for file in files:
            with safe_open(file, "pt") as tensors:
                assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} <= {"F32", "I64"}, file  # noqa: SIM118
    assert (tmp_path / "adapters" / ADAPTERS).is_file()
    for part in ("vae", "text_encoder", "text_encoder_2"):
        mine, theirs = (
            next((folder / part).glob("*.safetensors")) for folder in (tmp_path / "full", root / "sdxl")
        )
        assert mine.read_bytes() == theirs.read_bytes()
    assert json.loads((tmp_path / "full" / "config.json").read_text())["network"]["dtype"] == "float32"
    assert json.loads((tmp_path / "adapters" / "config.json").read_text())["network"]["dtype"] == "bfloat16"
    z = torch.randn(2, *teacher.image_shape)
    whole = FewStepGenerator(Settings(path=str(root / "sdxl")).load(), 80.0)
    assert (
        image_of_ours(distill.load_generator(tmp_path / "full"), z) - image_of_ours(whole, z)
    ).abs().max() < 0.02
    torch.testing.assert_close(
        image_of_diffusers(tmp_path / "full", z),
        image_of_ours(distill.load_generator(tmp_path / "full"), z),
        rtol=0,
        atol=1e-5,
    )
