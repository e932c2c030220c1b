"""Scenes from pipelines of diffusers: prompts name views, latents are of renders, adapters read cameras."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import load_generator
from distill.data.prompts.views import Settings as Views
from distill.networks.diffusers.adapters.camera_lora import CameraLoRANetwork, camera_features
from distill.networks.diffusers.adapters.lora import LoRANetwork
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.source import PipelineSource
from distill.networks.folder import checkpoints
from distill.networks.scene.scene import SceneGenerator
from distill.students.scene import Student
from distill.training.distillation.build import read_prompts
from distill.types import Condition
from tests.helpers.diffusers_families import FAMILIES
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    read_lines,
    read_run,
    refusal,
    train_run,
    write_run,
)
from tests.helpers.scenes import GRID, RING, VSD

ORBIT: dict[str, Any] = {**GRID, "particles": 2, "shaded": 0.5, "render_size": 12}
VIEWS = {"name": "views", "prompt": "a red apple"}


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny pipelines of SD 1.5 and of DiT."""
    root = tmp_path_factory.mktemp("pipelines")
    for name in ("sd15", "dit"):
        FAMILIES[name](root / name)
    return root


def vsd_run(root: Path, **changes: Any) -> dict[str, Any]:
    """Return settings of VSD with a tiny pipeline."""
    return {
        "teacher": {"name": "diffusers", "path": str(root / "sd15")},
        "prompts": VIEWS,
        "monitor_every": None,
        "steps": 4,
        "checkpoint_every": 2,
        "generator": {
            "network": ORBIT,
            "noise_levels": {"name": "uniform", "start": 0.02, "stop": 0.98},
            "annealing": {"noise_levels": {"name": "uniform", "start": 0.02, "stop": 0.5}, "end_step": 2},
        },
        "fake": {"network": {"name": "lora", "rank": 2, "reads_camera": True}},
        "guidance": {"teacher": 7.5},
        "objective": VSD,
        **changes,
    }


def open_teacher(path: Path) -> DiffusersNetwork:
    return DiffusersNetwork.open(PipelineSource(path=str(path)))


def test_vsd_with_a_pipeline_trains_resumes_bit_for_bit_and_leaves_a_scene(
    pipelines: Path, tmp_path: Path
) -> None:
    file = write_run(tmp_path, **vsd_run(pipelines))
    run = train_run(file)
    whole = checkpoint_tensors(run)
    assert all(torch.isfinite(value).all() for value in whole.values())
    assert read_lines(run)[-1]["grad_norm/generator"] > 0
    camera = [value for name, value in whole.items() if "cond_proj.camera" in name and "fake" in name]
    assert any(value.abs().sum() > 0 for value in camera)
    shutil.rmtree(checkpoints(run)[-1])
    shutil.rmtree(run / "export")
    assert_same_tensors(checkpoint_tensors(train_run(file)), whole)

    found = load_generator(run)
    assert isinstance(found, SceneGenerator)
    assert (found.image_shape, found.codec) == ((3, 16, 16), None)
    z = torch.randn(3, *found.noise_shape)
    images = found.images(z, Condition())
    assert torch.equal(images, found(z, Condition()))
    assert images.abs().max() <= 1


@pytest.mark.parametrize(
    ("objective", "extra"),
    [
        ({"name": "score_matching", "alpha": 0.0}, {}),
        (
            {"name": "distribution_matching", "divergence": "jensen_shannon"},
            {"discriminator": {"real": "teacher", "width": 8}, "ratio": {}},
        ),
        (
            {"name": "expanded_divergence", "divergence": "forward_kl"},
            {"discriminator": {"real": "teacher", "width": 8}, "ratio": {}},
        ),
    ],
    ids=["sim", "f_distill", "uni_instruct"],
)
def test_every_objective_reaches_a_scene_through_a_pipeline(
    objective: dict[str, Any], extra: dict[str, Any], pipelines: Path, tmp_path: Path
) -> None:
    if extra:
        extra = {
            **extra,
            "teacher_samples": {"path": str(tmp_path / "s"), "count": 8, "sampler": {"steps": 2}},
        }
    run = train_run(write_run(tmp_path, **vsd_run(pipelines, objective=objective, steps=2, **extra)))
    assert read_lines(run)[-1]["grad_norm/generator"] > 0


def test_latents_are_those_of_the_render_with_its_gradient(pipelines: Path) -> None:
    teacher = open_teacher(pipelines / "sd15")
    torch.manual_seed(0)
    generator = Student.model_validate({**ORBIT, "render_size": None}).build(teacher)
    z = torch.randn(2, *generator.noise_shape)
    latents = generator(z, Condition())
    assert latents.shape == (2, *teacher.image_shape)
    generator.eval()
    assert torch.allclose(generator(z, Condition()), teacher.encode(generator.images(z, Condition())))
    latents.square().sum().backward()
    assert generator.field.grid.nodes.grad.abs().max() > 0


def test_each_view_is_under_the_prompt_that_names_it(pipelines: Path, tmp_path: Path) -> None:
    from distill.networks.scene.cameras import BACK, FRONT, SIDE, Orbit

    teacher = open_teacher(pipelines / "sd15")
    prompts = read_prompts(read_run(write_run(tmp_path, **vsd_run(pipelines))), teacher)
    u = torch.full((3, 4), 0.5)
    u[:, 0] = torch.tensor([0.5, 0.75, 0.99])  # azimuths of 0, 90 and 176 degrees
    _, label = Orbit().draw(u)
    assert label.tolist() == [FRONT, SIDE, BACK]
    assert [prompts.prompts[number] for number in label] == [
        "a red apple, front view",
        "a red apple, side view",
        "a red apple, back view",
    ]


def test_prompts_of_views_take_words_of_one_s_own() -> None:
    words = ("von vorn", "von der Seite", "von hinten", "von oben")
    assert Views(prompt="ein Apfel", words=words).load()[3] == "ein Apfel, von oben"


def test_adapters_that_read_the_camera_begin_as_the_teacher_and_learn_it(pipelines: Path) -> None:
    teacher = open_teacher(pipelines / "sd15")
    torch.manual_seed(0)
    network = CameraLoRANetwork(teacher, 2).eval()
    x_t, t = torch.randn(2, *teacher.image_shape), torch.full((2,), 500.0)
    text = teacher.encode_prompts(["a", "b"]).text
    near, far = (Condition(None, text, torch.full((2, 4), value)) for value in (0.3, 0.7))
    assert torch.allclose(network(x_t, t, near), teacher(x_t, t, near), atol=1e-6)
    names = set(network.state_dict())
    assert "network.time_embedding.cond_proj.camera.weight" in names
    assert len(names) == 1 + len(LoRANetwork(teacher, 2).state_dict())
    with torch.no_grad():
        network.network.time_embedding.cond_proj.camera.weight.normal_()
    assert not torch.allclose(network(x_t, t, near), network(x_t, t, far), atol=1e-4)
    assert "cond_proj.camera.weight" not in dict(teacher.network.named_parameters())


def test_cameras_go_with_a_teacher_in_bfloat16_and_computation_in_float32(pipelines: Path) -> None:
    """Weights of the map are in float32, and what it adds to the embedding has the type of the teacher."""
    source = PipelineSource(path=str(pipelines / "sd15"), dtype="bfloat16")
    whole = CameraLoRANetwork(open_teacher(pipelines / "sd15"), 2)
    half = CameraLoRANetwork(DiffusersNetwork.open(source), 2)
    weight = half.network.time_embedding.cond_proj.camera.weight
    assert weight.dtype == torch.float32
    for network in (whole, half):
        projection = network.network.time_embedding.cond_proj
        projection.camera.weight.data = torch.linspace(-1, 1, weight.numel()).view_as(weight)
    torch.manual_seed(0)
    x_t, t = torch.randn(2, *half.image_shape), torch.full((2,), 500.0)
    cond = Condition(None, whole.encode_prompts(["a", "b"]).text, torch.full((2, 4), 0.3))
    made = half(x_t, t, cond)
    assert made.dtype == torch.float32
    assert torch.allclose(made, whole(x_t, t, cond), atol=0.1)
    made.sum().backward()
    assert weight.grad.abs().sum() > 0


def test_a_camera_is_read_as_sines_and_cosines_of_its_angles_distance_and_field_of_view() -> None:
    camera = torch.tensor([[torch.pi / 2, torch.pi / 6, 2.0, 0.75]])
    expected = torch.tensor([[1.0, 0.0, 0.5, 0.75**0.5, 2.0, 0.75]])
    assert torch.allclose(camera_features(camera), expected, atol=1e-6)


def test_a_transformer_s_adapters_cannot_read_cameras(pipelines: Path) -> None:
    with pytest.raises(Exception, match=r"reads_camera: needs a U-Net of Stable Diffusion; expected false"):
        CameraLoRANetwork(open_teacher(pipelines / "dit"), 2)


REFUSED = {
    "text_file": (
        {"prompts": {"name": "text_file", "path": "prompts.txt"}},
        "prompts: text_file do not say the view; expected views for a scene",
    ),
    "ring": (
        {"generator": {"network": {**ORBIT, "cameras": RING}}},
        "generator.network.cameras: ring has no words; expected orbit with prompts",
    ),
    "reads_camera": (
        {"generator": {"network": {"name": "lora", "rank": 2}}},
        "fake.network.reads_camera: needs a scene as the student; expected false",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_prompts_and_cameras_that_do_not_fit_are_refused(name: str, pipelines: Path, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    assert message in refusal(write_run(tmp_path, **vsd_run(pipelines, **changes)))
