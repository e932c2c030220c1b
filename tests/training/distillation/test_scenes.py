"""Distillation into scenes: cameras decide the conditions, and SDS and VSD have their published gradients."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill import load_generator
from distill.diffusion.noise_levels import Annealing, Karras, LogNormal
from distill.diffusion.schedules import EDM
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.exact.marginal import marginal
from distill.networks.exact.sample_score import SampleScore
from distill.networks.folder import checkpoints
from distill.networks.scene.cameras import Cameras, Ring
from distill.networks.scene.scene import SceneGenerator
from distill.networks.scene.sizes import SceneSizes
from distill.teachers.known_scenes import Settings as KnownScenes
from distill.training.batches import Batches
from distill.training.distillation.build import build_method, build_networks
from distill.training.distillation.losses import generator_loss
from distill.training.distillation.method import Networks
from distill.types import Condition
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    read_lines,
    read_run,
    refusal,
    train_run,
    write_run,
)
from tests.helpers.scenes import EXACT_GRID, GRID, KNOWN, RING, VSD, scene_run

CPU = torch.device("cpu")


def scene(**changes: Any) -> SceneGenerator:
    """Return two small scenes of RGB images of 8x8."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in EXACT_GRID.items() if name != "name"}
    return SceneGenerator(SceneSizes.model_validate({**sizes, **changes}), (3, 8, 8))


def batches(generator: SceneGenerator, process: int = 0, processes: int = 1, **changes: Any) -> Batches:
    return Batches(
        (3, 8, 8),
        4,
        changes.pop("data", None),
        batch_size=8,
        seed=3,
        device=CPU,
        process=process,
        processes=processes,
        noise_shape=generator.step_noise_shape,
        condition_of=generator.condition_of,
        **changes,
    )


def test_the_noise_of_a_scene_decides_label_and_camera_of_its_image() -> None:
    batch = next(batches(scene()).starting_at(2))
    assert batch.z.shape == (8, 9)
    assert batch.eps.shape == (8, 3, 8, 8)
    expected = Ring.model_validate(RING).numbered(batch.cond.label)
    assert torch.equal(batch.cond.camera, expected.rows())
    assert len(batch.cond.label.unique()) > 1


def test_processes_and_micro_batches_draw_parts_of_the_same_views() -> None:
    whole = next(batches(scene()).starting_at(5))
    halves = [next(batches(scene(), process, 2).starting_at(5)) for process in (0, 1)]
    for parts in (halves, whole.split(3)):
        assert torch.equal(torch.cat([part.z for part in parts]), whole.z)
        assert torch.equal(torch.cat([part.cond.label for part in parts]), whole.cond.label)
        assert torch.equal(torch.cat([part.cond.camera for part in parts]), whole.cond.camera)


class NumberedSamples:
    """Stored samples whose values are their numbers; sample i has the label i % 4, as the teacher's have."""

    image_shape, label_count = (3, 8, 8), 4

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3, 8, 8), float(index)), index % 4


def test_real_images_beside_a_scene_have_the_labels_of_its_views() -> None:
    seen = set()
    stream = batches(scene(), data=NumberedSamples()).starting_at(0)
    for _ in range(40):
        batch = next(stream)
        rows = batch.real[:, 0, 0, 0].long()
        assert torch.equal(rows % 4, batch.cond.label)
        seen |= set(rows.tolist())
    assert seen == set(range(11))


def networks_of(fake: dict[str, Any], tmp_path: Path) -> tuple[Networks, Any]:
    config = read_run(write_run(tmp_path, **scene_run(fake={"network": fake})))
    torch.manual_seed(0)
    return build_networks(config, config.teacher.load(), CPU), build_method(config, CPU)


def test_sds_s_gradient_is_the_difference_of_noise_predictions(tmp_path: Path) -> None:
    """With the weight sigma / alpha: here alpha is 1, so x_0 - D(x_t) = sigma (eps_hat - eps)."""
    networks, method = networks_of({"name": "sample"}, tmp_path)
    assert isinstance(networks.fake, SampleScore)
    batch = next(batches(networks.generator).starting_at(0))
    x0 = networks.generator(batch.z, batch.cond).detach().requires_grad_(True)
    losses, _ = generator_loss(networks, method, batch, x0, method.at(0))
    (gradient,) = torch.autograd.grad(losses["objective"], x0)
    t = method.levels.t(batch.u, networks.teacher.schedule)
    sigma = t[:, None, None, None]
    x_t = x0.detach() + sigma * batch.eps
    eps_hat = (x_t - networks.teacher(x_t, t, batch.cond)) / sigma
    expected = sigma * (eps_hat - batch.eps) / x0.numel()
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-7)


class Pixel(GaussianMixture):
    """A mixture of images of one grey pixel."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return super().forward(x_t.flatten(1), t, cond).view_as(x_t)


def test_vsd_s_gradient_is_that_of_the_kl_divergence(tmp_path: Path) -> None:
    """Two scenes of one pixel are a mixture of two noised points, whose divergence is an integral in 1-D."""
    sizes = {name: value for name, value in EXACT_GRID.items() if name != "name"}
    one_camera = {**RING, "count": 1}
    torch.manual_seed(1)
    generator = SceneGenerator(
        SceneSizes.model_validate({**sizes, "cameras": one_camera}), (1, 1, 1)
    ).double()
    with torch.no_grad():
        generator.field.grid.nodes[:, 1:] += torch.tensor([-1.0, 2.0])[:, None, None, None, None]
    schedule = EDM()
    means = torch.tensor([[-0.6], [0.5]], dtype=torch.float64)
    teacher = Pixel(torch.tensor([0.3, 0.7]), means, torch.full_like(means, 0.01), schedule)
    teacher.image_shape = (1, 1, 1)
    sigma = torch.tensor(0.4, dtype=torch.float64)
    cameras = generator.sizes.cameras.numbered(torch.zeros(2, dtype=torch.int64))
    images = generator.images_from(as_double(cameras), torch.tensor([0, 1])).flatten()

    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    log_q = (-(x[:, None] - images).square() / (2 * sigma**2)).logsumexp(1) - math.log(2)
    log_q = log_q - (2 * math.pi * sigma**2).log() / 2
    log_p = GaussianMixture.log_density(teacher, x[:, None], sigma.expand(len(x)), Condition())
    divergence = torch.trapezoid(log_q.exp() * (log_q - log_p), x)
    (expected,) = torch.autograd.grad(divergence, generator.field.grid.nodes)

    nodes, weights = (torch.from_numpy(part) for part in hermite(64))
    exact = marginal(generator.eval(), schedule)
    images = generator.images_from(as_double(cameras), torch.tensor([0, 1]))
    loss = 0.0
    for image in images:
        x_t = image.detach() + sigma * nodes[:, None, None, None]
        t = sigma.expand(len(x_t))
        fake = exact(x_t.flatten(1), t, Condition()).view_as(x_t)
        difference = (fake - teacher(x_t, t, Condition())) / sigma**2  # score of q minus score of p
        loss = loss + (weights[:, None, None, None] * difference).sum() * image.sum() / len(images)
    (found,) = torch.autograd.grad(loss, generator.field.grid.nodes)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)


def as_double(cameras: Cameras) -> Cameras:
    return Cameras.from_rows(cameras.rows().double())


def hermite(count: int) -> tuple[Any, Any]:
    """Return nodes and weights of the expectation over N(0, 1)."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / weights.sum()


def test_the_exact_score_of_scenes_is_the_mixture_of_their_images() -> None:
    generator = scene().eval()
    exact = marginal(generator, EDM())
    ring = Ring.model_validate(RING)
    label = torch.tensor([0, 3])
    images = torch.stack([generator.images_from(ring.numbered(label), torch.full((2,), k)) for k in (0, 1)])
    x_t = torch.randn(2, 3, 8, 8)
    for sigma in (0.3, 2.0):
        found = exact(x_t.flatten(1), torch.full((2,), sigma), Condition(label)).view_as(x_t)
        weight = (-(x_t - images).flatten(2).square().sum(2) / (2 * sigma**2)).softmax(0)
        assert torch.allclose(found, (weight[..., None, None, None] * images).sum(0), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_density_of_scenes_is_exact_in_half_precision(dtype: torch.dtype) -> None:
    exact = marginal(scene().eval(), EDM())
    x_t, t, cond = torch.randn(4, 192), torch.full((4,), 0.01), Condition(torch.arange(4))
    expected = exact.log_density(x_t, t, cond)
    with torch.autocast("cpu", dtype):
        assert torch.equal(exact.log_density(x_t, t, cond), expected)


def test_scenes_with_endless_views_have_no_exact_score() -> None:
    with pytest.raises(ValueError, match=r"not finitely many; expected cameras: ring, stratified: false"):
        marginal(scene(cameras={"name": "orbit"}), EDM())


def test_a_known_scene_s_teacher_answers_with_the_image_of_the_label_s_view() -> None:
    teacher = KnownScenes.model_validate(KNOWN).load()
    assert (teacher.image_shape, teacher.label_count) == ((3, 8, 8), 4)
    label = torch.tensor([1, 2])
    cameras = Ring.model_validate(RING).numbered(label)
    image = 2 * teacher.render(cameras, 1, 8, 8).colour - 1
    assert torch.allclose(teacher(image, torch.full((2,), 1e-3), Condition(label)), image, atol=1e-4)


def test_noise_levels_anneal_linearly_between_two_steps() -> None:
    first, last = Karras(start=0.0, stop=0.4), Karras(start=0.4, stop=1.0)
    annealing = Annealing(noise_levels=last, start_step=10, end_step=20)
    assert annealing.at(10, first) == first
    assert annealing.at(15, first) == Karras(start=0.2, stop=0.7)
    assert annealing.at(20, first) == annealing.at(99, first) == last


def test_a_method_takes_the_noise_levels_of_the_step(tmp_path: Path) -> None:
    annealing = {"noise_levels": {"name": "lognormal", "mean": 1.0}, "end_step": 4}
    generator = {"network": EXACT_GRID, "noise_levels": {"name": "lognormal"}, "annealing": annealing}
    method = build_method(read_run(write_run(tmp_path, **scene_run(generator=generator))), CPU)
    assert method.at(0).levels == LogNormal()
    assert method.at(2).levels.mean == pytest.approx(-0.1)
    assert method.at(7).levels == LogNormal(mean=1.0)


@pytest.mark.parametrize("fake", ["exact", "sample"])
def test_a_scene_learns_to_look_like_the_teacher_s(fake: str, tmp_path: Path) -> None:
    """One known scene: every method finds it. The error is that of views between those of training."""
    teacher = {**KNOWN, "scenes": ["tree"]}
    generator = {
        "network": {**EXACT_GRID, "particles": 1, "resolution": 12, "samples": 16},
        "noise_levels": {"name": "karras", "sigma_min": 0.05, "sigma_max": 5},
        "optimizer": {"name": "adam", "lr": 0.1, "betas": [0.9, 0.99]},
        "ema": 0.0,
    }
    settings = scene_run(teacher=teacher, generator=generator, fake={"network": {"name": fake}}, steps=60)
    run = train_run(write_run(tmp_path, **settings))
    found = load_generator(run)
    between = Ring.model_validate({**RING, "turn": 45.0}).numbered(torch.arange(4))
    truth = KnownScenes.model_validate(teacher).load().render(between, 0, 8, 8).colour
    before = SceneGenerator(found.sizes, (3, 8, 8)).render(between, torch.zeros(4).long(), 8, 8).colour
    error = (found.render(between, torch.zeros(4).long(), 8, 8).colour - truth).square().mean()
    assert error < 0.25 * (before - truth).square().mean()


def test_a_run_of_a_scene_resumes_bit_for_bit(tmp_path: Path) -> None:
    file = write_run(tmp_path, **scene_run(steps=4, checkpoint_every=2))
    run = train_run(file)
    whole = checkpoint_tensors(run)
    shutil.rmtree(checkpoints(run)[-1])
    shutil.rmtree(run / "export")
    assert [path.name for path in checkpoints(run)] == ["step-00000002"]
    assert_same_tensors(checkpoint_tensors(train_run(file)), whole)


REFUSED = {
    "steps": (
        {"generator": {"network": EXACT_GRID, "steps": 2}},
        "generator.steps: is 2; expected 1 for a scene",
    ),
    "views": (
        {"generator": {"network": {**EXACT_GRID, "cameras": {**RING, "count": 5}}}},
        "generator.network.cameras: have 5 views; expected 4, one for each label of the teacher",
    ),
    "cameras": (
        {"generator": {"network": {**EXACT_GRID, "cameras": {**RING, "distance": 2.0}}}},
        "generator.network.cameras: differ from teacher.cameras, which its labels number; expected the same",
    ),
    "data": (
        {"discriminator": {}, "data": {"name": "digits"}},
        "discriminator.real: data have no views; expected teacher, whose samples have them, for a scene",
    ),
    "samples": (
        {"discriminator": {"real": "teacher"}, "teacher_samples": {"path": "samples", "count": 3}},
        "teacher_samples.count: is 3; expected at least 4, one for each view",
    ),
    "annealing": (
        {
            "generator": {
                "network": EXACT_GRID,
                "annealing": {"noise_levels": {"name": "uniform"}, "end_step": 9},
            }
        },
        "annealing.noise_levels: is uniform; expected karras as before",
    ),
    "order": (
        {
            "generator": {
                "network": EXACT_GRID,
                "annealing": {"noise_levels": {"name": "karras"}, "start_step": 9, "end_step": 9},
            }
        },
        "end_step: is 9; expected more than start_step, 9",
    ),
    "scene": (
        {"teacher": {**KNOWN, "scenes": ["tre"]}},
        "'tre' is no scene; did you mean 'tree'?",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_that_a_scene_cannot_have_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    assert message in refusal(write_run(tmp_path, **scene_run(**changes)))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_scene_needs_a_teacher_of_images(tmp_path: Path) -> None:
    teacher = {"name": "gaussian_mixture", "components": [{"mean": [0.0, 1.0], "std": 1.0}]}
    settings = scene_run(teacher=teacher, generator={"network": GRID})
    assert "scene needs a teacher of images; expected mlp" in refusal(write_run(tmp_path, **settings))


def test_a_discriminator_learns_beside_a_fake_score_that_learns_nothing(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "data": {"name": "digits"},
        "fake": {"network": {"name": "sample"}},
        "discriminator": {"width": 8},
        "objective": {**VSD, "divergence": "jensen_shannon"},
        "ratio": {},
        "monitor_every": None,
    }
    line = read_lines(train_run(write_run(tmp_path, **settings)))[-1]
    assert line["loss/fake"] == 0
    assert line["grad_norm/discriminator"] > 0
