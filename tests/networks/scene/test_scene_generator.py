"""A scene generator renders the scene and the view that its noise chooses, and is saved and opened again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.folder import load_generator, save_model
from distill.networks.scene.cameras import Cameras
from distill.networks.scene.scene import NOISE_NUMBERS, PARTICLE, SceneGenerator
from distill.networks.scene.sizes import SceneSizes
from distill.types import Condition

SHAPE = (3, 6, 8)


def generator(shape: tuple[int, ...] = SHAPE, **sizes: object) -> SceneGenerator:
    torch.manual_seed(0)
    settings = {
        "resolution": 4,
        "features": 2,
        "width": 4,
        "samples": 6,
        "cameras": {"name": "ring"},
        **sizes,
    }
    return SceneGenerator(SceneSizes.model_validate(settings), shape)


def noise(count: int = 3) -> Tensor:
    return torch.randn(count, NOISE_NUMBERS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("background", ["white", "black", "grey", "learned"])
def test_a_scene_without_density_shows_its_background(background: str) -> None:
    scenes = generator(background=background, blob_density=-1e4, blob_radius=1e4)
    expected = {"white": 1.0, "black": -1.0, "grey": 0.0, "learned": 0.0}[background]
    torch.testing.assert_close(scenes(noise(), Condition()), torch.full((3, *SHAPE), expected))


def test_only_a_learned_background_is_trained() -> None:
    def names(background: str) -> set[str]:
        return {name for name, _ in generator(background=background).named_parameters()}

    assert names("learned") - names("white") == {"background"}


def test_images_are_those_of_the_camera_of_the_condition() -> None:
    scenes = generator(cameras={"name": "orbit"}).eval()
    condition = scenes.condition_of(noise())
    assert condition.camera is not None
    found = scenes.render(Cameras.from_rows(condition.camera), torch.zeros(3, dtype=torch.int64), *SHAPE[1:])
    torch.testing.assert_close(scenes(noise(), condition), 2 * found.colour - 1)


def test_labels_of_a_ring_are_its_cameras() -> None:
    scenes = generator()
    condition = scenes.condition_of(noise())
    assert condition.label is not None
    assert condition.camera is not None
    assert scenes.sizes.cameras.numbered(condition.label).rows().equal(condition.camera)  # type: ignore[union-attr]


def test_an_image_of_one_particle_has_no_gradient_for_the_other() -> None:
    scenes = generator(particles=2, background="learned")
    z = noise(2)
    z[:, PARTICLE] = -1.0
    scenes(z, Condition()).square().sum().backward()
    for name, parameter in scenes.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad[0].abs().sum() > 0, name
        assert parameter.grad[1].eq(0).all(), name


def test_noise_chooses_all_particles_equally_often() -> None:
    z = torch.zeros(40, NOISE_NUMBERS)
    z[:, PARTICLE] = torch.special.ndtri((torch.arange(40) + 0.5) / 40)
    assert generator(particles=4).particle_of(z).bincount().tolist() == [10] * 4


def test_points_are_shifted_in_training_only() -> None:
    scenes = generator(samples=2)
    shifted = scenes(noise(), Condition())
    middles = scenes.eval()(noise(), Condition())
    assert (shifted - middles).abs().max() > 1e-3
    assert generator(samples=2, stratified=False)(noise(), Condition()).equal(middles)


def test_shaded_images_are_darker() -> None:
    plain, shaded = (generator(shaded=share).eval()(noise(), Condition()) for share in (0.0, 1.0))
    assert (shaded <= plain + 1e-6).all()
    assert (shaded < plain - 0.01).any()


def test_a_smaller_render_is_enlarged_to_the_size_of_the_images() -> None:
    scenes = generator((3, 8, 8), render_size=4).eval()
    small = scenes.rendered(noise(), 4, 4).colour
    expected = torch.nn.functional.interpolate(small, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(scenes(noise(), Condition()), 2 * expected - 1)


def test_images_and_gradients_do_not_depend_on_how_many_points_are_computed_together() -> None:
    results = []
    for count in (2**20, 90):
        scenes = generator(points_at_once=count, shaded=1.0, layers=2)
        images = scenes(noise(), Condition())
        images.square().sum().backward()
        results.append((images, *(parameter.grad for parameter in scenes.parameters())))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("sizes", [{}, {"cameras": {"name": "orbit", "distance": (2, 3)}}, {"width": 0}])
def test_a_description_builds_the_same_scenes_without_weights(sizes: dict[str, object]) -> None:
    scenes = generator(particles=2, **sizes)
    copy = SceneGenerator.from_description(scenes.describe())
    assert copy.sizes == scenes.sizes
    copy.load_state_dict(scenes.state_dict())
    assert copy(noise(), Condition()).equal(scenes(noise(), Condition()))


@pytest.mark.parametrize("background", ["white", "learned"])
def test_saved_scenes_open_as_the_same_generator(background: str, tmp_path: Path) -> None:
    scenes = generator(particles=2, background=background, representation="triplane").eval()
    save_model(scenes, tmp_path)
    opened = load_generator(tmp_path)
    assert opened(noise(), Condition()).equal(scenes(noise(), Condition()))


def test_saved_scenes_with_impossible_sizes_are_refused(tmp_path: Path) -> None:
    save_model(generator(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"samples": 6', '"samples": 1'))
    with pytest.raises(
        UserError, match=r"config.json: sizes.samples: expected greater than or equal to 2; found 1"
    ):
        load_generator(tmp_path)


@pytest.mark.parametrize("shape", ["3", [3, 8], [3, 8, 0], [3, 8, "8"]])
def test_a_damaged_shape_of_images_is_named(shape: object) -> None:
    description = {**generator().describe(), "pixel_shape": shape}
    with pytest.raises(ValueError, match="pixel_shape: expected channels, height and width; found"):
        SceneGenerator.from_description(description)
