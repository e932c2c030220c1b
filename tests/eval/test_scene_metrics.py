"""The metrics of scenes by hand: PSNR, diversity, known scenes, R-precision, and the held-out views."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.eval.protocols import read_protocol
from distill.eval.scene.diversity import mean_pairwise_distance, mean_pairwise_psnr, measure_diversity
from distill.eval.scene.known_scenes import NamedScenes, compare_with_known, render_known
from distill.eval.scene.psnr import psnr
from distill.eval.scene.similarity import r_precision, scores_of_pairs
from distill.eval.scene.views import held_out_views, render_particles
from distill.networks.scene.cameras import Cameras, Orbit, Ring
from distill.networks.scene.renderer import Render
from distill.networks.scene.scene import SceneGenerator
from distill.types import Condition, Reward
from tests.helpers.plain_scenes import plain_scenes, set_colour, set_density

RED, GREEN, BLUE = (0.8, 0.2, 0.2), (0.2, 0.8, 0.2), (0.2, 0.2, 0.8)


def flat(*levels: float, views: int = 2) -> Tensor:
    """Images (n, views, 3, 4, 4), each of one grey level in [0, 1]."""
    return torch.tensor(levels)[:, None, None, None, None].expand(-1, views, 3, 4, 4).contiguous()


def coloured(*colours: tuple[float, float, float]) -> SceneGenerator:
    """Opaque cubes, each of one colour, with four cameras in training."""
    generator = plain_scenes(particles=len(colours), count=4)
    for number, colour in enumerate(colours):
        set_density(generator, number, 40.0)
        set_colour(generator, number, colour)
    return generator


class Truth:
    """Known scenes that are the particles of a generator."""

    def __init__(self, generator: SceneGenerator) -> None:
        self.generator = generator

    def render(self, cameras: Cameras, scene: int, height: int, width: int) -> Render:
        particle = torch.full((len(cameras.azimuth),), scene)
        return self.generator.render(cameras, particle, height, width)


def test_psnr_is_20_db_for_a_difference_of_a_tenth() -> None:
    first, second = flat(0.5, 0.5), flat(0.6, 0.51)
    torch.testing.assert_close(
        psnr(first, second), torch.tensor([[20.0] * 2, [40.0] * 2], dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_psnr_averages_squares_over_pixels_and_channels() -> None:
    first = torch.zeros(3, 1, 4)
    second = torch.zeros(3, 1, 4)
    second[0, 0, 0], second[2, 0, 3] = 0.3, 0.5
    expected = -10 * math.log10((0.09 + 0.25) / 12)
    assert psnr(first, second).item() == pytest.approx(expected, rel=1e-6)


def test_psnr_of_equal_images_is_100_db() -> None:
    assert psnr(flat(0.3), flat(0.3)).tolist() == [[100.0, 100.0]]


def test_diversity_of_equal_particles_is_0() -> None:
    found = measure_diversity(flat(0.4, 0.4, 0.4), read_protocol("fd-pixel"), torch.device("cpu"))
    assert (found["distance"], found["psnr"]) == (0.0, 100.0)


def test_diversity_is_the_mean_over_pairs_and_views_of_their_distance() -> None:
    """The bytes 0, 51 and 255 are -1, -0.6 and 1, so that pairs differ by 0.4, 2 and 1.6 in each value."""
    found = measure_diversity(flat(0.0, 0.2, 1.0), read_protocol("fd-pixel"), torch.device("cpu"))
    assert found["distance"] == pytest.approx(math.sqrt(3 * 4 * 4) * (0.4 + 2 + 1.6) / 3)
    expected = -10 * (math.log10(0.04) + math.log10(1) + math.log10(0.64)) / 3
    assert found["psnr"] == pytest.approx(expected, abs=1e-5)


def test_particles_are_compared_from_the_same_camera() -> None:
    """Two particles that show the same two images from opposite cameras differ."""
    first, second = flat(0.0)[0, 0], flat(1.0)[0, 0]
    images = torch.stack([torch.stack([first, second]), torch.stack([second, first])])
    assert mean_pairwise_psnr(images) == 0.0
    assert mean_pairwise_distance(images.flatten(2)) == pytest.approx(math.sqrt(48))


def test_particles_are_matched_to_the_scenes_that_they_are() -> None:
    """Four particles are the scenes 1, 0, 1 and 1 of three."""
    particles, truth = coloured(GREEN, RED, GREEN, GREEN), Truth(coloured(RED, GREEN, BLUE))
    views = held_out_views(particles.sizes.cameras)
    known = NamedScenes(("red", "green", "blue"), truth)
    images = render_particles(particles, views, batch_size=3)
    found = compare_with_known(images, render_known(known, views, 8, 8, 3), known.names, 20.0)
    assert found["nearest"] == ["green", "red", "green", "green"]
    assert found["nearest_psnr"] == [100.0] * 4
    assert found["mass"] == {"red": 0.25, "green": 0.75, "blue": 0.0}
    assert found["found"] == ["red", "green"]
    # All pixels are opaque and differ by 0.6 in two of three channels.
    assert found["psnr"][1][1] == pytest.approx(-10 * math.log10(0.36 * 2 / 3), abs=1e-3)


def test_a_scene_is_found_above_the_threshold_only() -> None:
    """The particle differs from its scene by a tenth: 20 dB."""
    truth, names = flat(0.5, 0.0), ("near", "far")
    assert compare_with_known(flat(0.6), truth, names, 20.1)["found"] == []
    assert compare_with_known(flat(0.6), truth, names, 19.9)["found"] == ["near"]


def test_a_scene_that_is_no_particles_nearest_is_not_found() -> None:
    found = compare_with_known(flat(0.5), flat(0.52, 0.54), ("near", "next"), 20.0)
    assert found["psnr"][0][1] > 20
    assert found["found"] == ["near"]


class Hue(Reward):
    """The mean of the channel that a prompt names."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        assert cond.text is not None
        places = [("red", "green", "blue", "").index(prompt) for prompt in cond.text.prompts]
        means = torch.cat([images.mean((2, 3)), images.new_zeros(len(images), 1)], 1)
        return means[torch.arange(len(images)), places]


def test_scores_are_of_every_render_with_every_prompt() -> None:
    pixels = torch.tensor([[255, 0, 51], [0, 102, 0], [0, 0, 255]], dtype=torch.uint8)
    pixels = pixels[:, :, None, None].expand(-1, -1, 2, 2)
    found = scores_of_pairs(Hue(), pixels, ["blue", "red", "green"], "hue")
    expected = torch.tensor([[-0.6, 1, -1], [-1, -1, -0.2], [1, -1, -1]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_score_that_is_not_finite_names_its_render_and_prompt() -> None:
    class Broken(Hue):
        def forward(self, images: Tensor, cond: Condition) -> Tensor:
            return super().forward(images, cond) / images.amax((1, 2, 3)).add(1).sign()

    pixels = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    pixels[0] = 255
    with pytest.raises(UserError, match=r"^hue: the score of render 1 is -inf, for 'red'$"):
        scores_of_pairs(Broken(), pixels, ["red"], "hue")


def test_r_precision_counts_renders_and_particles() -> None:
    """The first particle is right in one of two views and on average, the second in one only."""
    table = torch.tensor(
        [[[5.0, 1.0, 0.0], [1.0, 2.0, 0.0]], [[3.0, 2.0, 1.0], [0.0, 0.0, 9.0]]], dtype=torch.float64
    )
    assert r_precision(table) == {"renders": 0.5, "particles": 0.5}


def test_a_tie_with_another_prompt_is_no_hit() -> None:
    assert r_precision(torch.ones(1, 1, 2, dtype=torch.float64)) == {"renders": 0.0, "particles": 0.0}


def test_a_ring_is_turned_by_half_the_space_between_its_cameras() -> None:
    views = held_out_views(Ring(count=4, elevations=(0.0, 30.0), turn=10.0))
    degrees = torch.stack([views.azimuth, views.elevation]).rad2deg()
    expected = torch.tensor([[55.0, 145, 235, 325] * 2, [0.0] * 4 + [30.0] * 4])
    torch.testing.assert_close(degrees, expected)


def test_an_orbit_is_seen_evenly_from_the_middle_of_its_ranges() -> None:
    orbit = Orbit(azimuth=(-90, 90), elevation=(0, 40), distance=(2, 3), field_of_view=(40, 60))
    rows = held_out_views(orbit, 3).rows()
    expected = torch.tensor([[-60.0, 20, 2.5, 50], [0, 20, 2.5, 50], [60, 20, 2.5, 50]])
    expected[:, [0, 1, 3]] = expected[:, [0, 1, 3]].deg2rad()
    torch.testing.assert_close(rows, expected)


def test_an_orbit_has_eight_views_by_default() -> None:
    assert len(held_out_views(Orbit()).azimuth) == 8


def test_a_number_of_views_is_refused_for_a_ring() -> None:
    message = r"^--views 3: goes with the cameras orbit; expected none, the run's ring has 8$"
    with pytest.raises(UserError, match=message):
        held_out_views(Ring(), 3)


def test_renders_do_not_depend_on_how_many_are_made_at_once() -> None:
    generator = coloured(RED, BLUE)
    views = held_out_views(generator.sizes.cameras)
    torch.testing.assert_close(render_particles(generator, views, 1), render_particles(generator, views, 4))
