"""The terms of scenes, by hand on cubes of constant density and of a density that rises along an axis."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.scene.scene import SceneGenerator
from distill.objectives.term import TermInputs, TermSettings
from distill.objectives.terms import opacity_entropy as entropy_file
from distill.objectives.terms import orientation as orientation_file
from distill.objectives.terms import sparsity as sparsity_file
from distill.objectives.terms.opacity_entropy import opacity_entropy
from distill.objectives.terms.orientation import orientation
from distill.objectives.terms.sparsity import sparsity
from distill.training.distillation.losses import generator_loss
from distill.training.distillation.method import WeightedTerm
from distill.types import Condition, Generator, LossOutput, Prediction, Scores
from tests.helpers.loss_inputs import loss_inputs
from tests.helpers.plain_scenes import cosines, noise_of, opacities, plain_scenes, set_density
from tests.helpers.runs import read_run, write_run

SIZE = 4
DENSITIES = (0.1, 0.9)
"""Those of two scenes, whose opacities are about 0.18 and 0.83."""
Function = Callable[..., LossOutput]


def inputs_of(generator: Generator, z: Tensor | None) -> TermInputs:
    nothing = torch.zeros(2, 1)
    scores = Scores(nothing, nothing, nothing, nothing, nothing, nothing, torch.zeros(2))
    return TermInputs(scores, Condition(), generator, Prediction(nothing), z=z)


def foggy() -> tuple[SceneGenerator, TermInputs]:
    """Two cubes of constant density, each seen once, the denser first."""
    generator = plain_scenes(particles=2)
    for particle, density in enumerate(DENSITIES):
        set_density(generator, particle, density)
    return generator, inputs_of(generator, noise_of(1, 0, count=2))


def density_gradients(term: Function) -> Tensor:
    """Return the gradient of a term's sum to the raw densities of the two cubes, (2, 2, 2, 2)."""
    generator, inputs = foggy()
    term(inputs, SIZE).loss.sum().backward()
    gradient = generator.field.grid.nodes.grad
    assert gradient is not None
    return gradient[:, 0]


def test_sparsity_is_the_mean_of_the_softened_opacities() -> None:
    found = sparsity(foggy()[1], SIZE)
    rays = [opacities(density, SIZE) for density in reversed(DENSITIES)]
    expected = torch.stack([(o * o + 0.01).sqrt().mean() for o in rays])
    torch.testing.assert_close(found.loss.detach(), expected)
    torch.testing.assert_close(found.metrics["opacity"], torch.stack([o.mean() for o in rays]))


def test_sparsity_makes_every_node_clearer() -> None:
    assert (density_gradients(sparsity) > 0).all()


def test_opacity_entropy_is_that_of_a_coin_in_nats() -> None:
    found = opacity_entropy(foggy()[1], SIZE).loss.detach()
    coins = [torch.distributions.Bernoulli(opacities(density, SIZE)) for density in reversed(DENSITIES)]
    torch.testing.assert_close(found, torch.stack([coin.entropy().mean() for coin in coins]))


def test_opacity_entropy_is_log_2_where_half_the_light_passes() -> None:
    generator = plain_scenes(size=1)
    set_density(generator, 0, math.log(2) / 2)
    found = opacity_entropy(inputs_of(generator, noise_of(0, count=1)), 1).loss
    assert found.item() == pytest.approx(math.log(2), rel=1e-5)


def test_opacity_entropy_clears_the_clear_and_thickens_the_dense() -> None:
    gradient = density_gradients(opacity_entropy)
    assert (gradient[0] > 0).all()
    assert (gradient[1] < 0).all()


@pytest.mark.parametrize("density", [1e-6, 40.0])
def test_opacity_entropy_of_clear_and_of_opaque_rays_has_no_gradient(density: float) -> None:
    generator = plain_scenes()
    set_density(generator, 0, density)
    opacity_entropy(inputs_of(generator, noise_of(0, count=1)), SIZE).loss.sum().backward()
    gradient = generator.field.grid.nodes.grad
    assert gradient is not None
    assert torch.equal(gradient, torch.zeros_like(gradient))


def rising(near: float, far: float) -> TermInputs:
    """A cube whose density changes along z only, seen from positive z."""
    generator = plain_scenes()
    set_density(generator, 0, torch.tensor([far, near])[:, None, None].expand(2, 2, 2))
    return inputs_of(generator, noise_of(0, count=1))


def test_orientation_of_normals_that_face_away_is_the_opacity_times_the_squared_cosine() -> None:
    """The density falls away from the camera, so that its normals point along the axis of the camera."""
    inputs = rising(near=1.0, far=0.2)
    assert isinstance(inputs.generator, SceneGenerator)
    assert inputs.z is not None
    opacity = inputs.generator.rendered(inputs.z, SIZE, SIZE).opacity.flatten()
    expected = (opacity * cosines(SIZE) ** 2).mean()
    torch.testing.assert_close(orientation(inputs, SIZE).loss, expected[None])


def test_orientation_is_0_where_normals_face_the_camera() -> None:
    assert orientation(rising(near=0.2, far=1.0), SIZE).loss.item() == 0


def test_orientation_does_not_make_the_scene_vanish() -> None:
    """Its weights have no gradient, and by symmetry that of the normals adds up to 0."""
    inputs = rising(near=1.0, far=0.2)
    orientation(inputs, SIZE).loss.sum().backward()
    assert isinstance(inputs.generator, SceneGenerator)
    gradient = inputs.generator.field.grid.nodes.grad
    assert gradient is not None
    assert gradient.abs().max() < 1e-5


def test_a_step_against_the_gradient_of_orientation_lowers_it() -> None:
    torch.manual_seed(0)
    generator = plain_scenes(resolution=4)
    nodes = generator.field.grid.nodes
    nodes.data[:, 0] = 0.1 * torch.randn_like(nodes[:, 0])
    inputs = inputs_of(generator, noise_of(0, count=1))
    before = orientation(inputs, SIZE).loss.sum()
    (gradient,) = torch.autograd.grad(before, nodes)
    nodes.data -= 1e-3 * gradient / gradient.norm()
    assert orientation(inputs, SIZE).loss.sum() < before - 1e-5


SETTINGS = {
    "sparsity": sparsity_file.Settings,
    "opacity_entropy": entropy_file.Settings,
    "orientation": orientation_file.Settings,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_students_are_refused(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path, data={"name": "digits"}, terms=[{"name": name, "weight": 0.1}])
    message = f"terms: {name} needs a scene as the student; expected generator.network scene, found copy$"
    with pytest.raises(UserError, match=message):
        read_run(path)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_built_term_renders_at_its_size(name: str) -> None:
    settings: TermSettings = SETTINGS[name](weight=1.0, size=3)
    inputs = foggy()[1]
    function = {"sparsity": sparsity, "opacity_entropy": opacity_entropy, "orientation": orientation}[name]
    found = settings.build()(inputs).loss
    assert found.shape == (2,)
    assert torch.equal(found, function(inputs, 3).loss)


@pytest.mark.parametrize("term", [sparsity, opacity_entropy, orientation])
def test_a_term_without_a_scene_or_its_noise_cannot_render(term: Function) -> None:
    generator, inputs = foggy()
    message = "terms: a term that renders needs a scene as the student, and its noise"
    with pytest.raises(ValueError, match=message):
        term(inputs_of(generator, None))
    with pytest.raises(ValueError, match=message):
        term(dataclasses.replace(inputs, generator=Generator()))


def test_terms_get_the_noise_of_the_samples(tmp_path: Path) -> None:
    networks, method, batch = loss_inputs(tmp_path)
    seen: list[TermInputs] = []

    def record(inputs: TermInputs) -> LossOutput:
        seen.append(inputs)
        return LossOutput(torch.zeros(len(batch)))

    term = WeightedTerm(TermSettings(name="recorded", weight=1.0), record)
    method = dataclasses.replace(method, terms=(term,))
    generator_loss(networks, method, batch, networks.generator(batch.z, batch.cond), method.at(0))
    assert seen[0].z is batch.z
