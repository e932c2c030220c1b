"""The explicit reward, by hand: what is decoded, what is judged, what counts, and what is held for the way
back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from distill.config.errors import UserError
from distill.objectives.reward_loss import RewardTerm, WeightedReward, crop
from distill.objectives.term import TermInputs
from distill.objectives.terms.reward import Settings
from distill.types import Condition, Generator, Prediction, Reward, Scores, Text
from tests.helpers import tiny_rewards
from tests.helpers.tiny_rewards import Likeness

LABELS = torch.tensor([2, -1, 4])


class Latent(Generator):
    """Its samples are latents of 4x6, its images of 8x12: each latent's tanh, four times."""

    image_shape, pixel_shape, label_count = (1, 4, 6), (1, 8, 12), 10

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return z

    def decode(self, x0: Tensor) -> Tensor:
        self.calls.append(len(x0))
        return x0.tanh().repeat_interleave(2, 2).repeat_interleave(2, 3)


class Plain(Generator):
    """Its samples are its images."""

    image_shape, label_count = (1, 4, 6), 10

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return z


def student(
    x0: Tensor, cond: Condition, generator: Generator, crop_positions: Tensor | None = None
) -> TermInputs:
    ones = x0.new_ones(len(x0), 1, 1, 1)
    return TermInputs(
        Scores(x0, x0, ones, ones, x0, x0, x0.new_zeros(len(x0))),
        cond,
        generator,
        Prediction(x0),
        crop_positions=crop_positions,
    )


def samples() -> Tensor:
    return torch.randn(3, 1, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)


def likeness(images: Tensor, shade: float) -> Tensor:
    return -(images - shade).square().mean()


def test_it_is_minus_the_weighted_rewards_of_the_decoded_samples_under_their_conditions() -> None:
    x0 = samples()
    term = RewardTerm([WeightedReward("tiny", Likeness(), 2.0), WeightedReward("tiny", Likeness(3.0))])
    output = term(student(x0, Condition(torch.tensor([2, 3, 4])), Latent()))
    images = Latent().decode(x0.detach())
    expected = torch.stack(
        [likeness(image, shade) for image, shade in zip(images, (0.2, 0.3, 0.4), strict=True)]
    )
    torch.testing.assert_close(output.loss.detach(), -(2 + 3) * expected)
    torch.testing.assert_close(output.metrics["tiny"], expected)
    torch.testing.assert_close(output.metrics["tiny_2"], 3 * expected)
    found = torch.autograd.grad(output.loss.sum(), x0)[0]
    by_hand = torch.autograd.grad(
        5 * (x0.tanh() - torch.tensor([0.2, 0.3, 0.4]).reshape(3, 1, 1, 1)).square().sum() / 24, x0
    )[0]
    torch.testing.assert_close(found, by_hand)


def test_a_sample_without_a_condition_has_no_reward() -> None:
    """Neither a label of -1 nor an empty prompt; a model that knows neither is judged all over."""
    given = torch.zeros(3, 1)
    for cond, shades in (
        (Condition(LABELS), (0.2, 0.4)),
        (Condition(text=Text({"tokens": given}, {}, ("ab", "", "abcd"))), (0.2, 0.4)),
    ):
        x0 = samples()
        output = RewardTerm([WeightedReward("tiny", Likeness())])(student(x0, cond, Plain()))
        assert output.loss.tolist()[1] == 0
        torch.testing.assert_close(output.metrics["tiny"][2], likeness(x0[2], shades[1]).detach())
        assert output.metrics["tiny"][1] == 0
        assert output.metrics["share_judged"].tolist() == [1, 0, 1]
        moved = torch.autograd.grad(output.loss.sum(), x0)[0].flatten(1).abs().sum(1)
        assert [bool(row) for row in moved] == [True, False, True]

    class Blind(Reward):
        def forward(self, images: Tensor, cond: Condition) -> Tensor:
            return images.flatten(1).mean(1)

    output = RewardTerm([WeightedReward("blind", Blind())])(student(samples(), Condition(), Plain()))
    assert output.metrics["share_judged"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("bounds", "passes"),
    [
        ((None, -0.7), [True, False, True]),
        ((-0.9, None), [False, True, True]),
        ((-0.9, -0.7), [False, False, True]),
    ],
)
def test_beyond_its_bounds_a_reward_gives_no_gradient(
    bounds: tuple[float | None, float | None], passes: list[bool]
) -> None:
    images = (
        torch.tensor([1.0, 0.6, 0.9]).reshape(3, 1, 1, 1).expand(3, 1, 4, 6).clone().requires_grad_(True)
    )  # rewards -1, -0.36, -0.81
    output = RewardTerm([WeightedReward("tiny", Likeness(), 2.0, bounds)])(
        student(images, Condition(torch.zeros(3, dtype=torch.int64)), Plain())
    )
    gradient = torch.autograd.grad(output.loss.sum(), images)[0]
    assert [bool(row.any()) for row in gradient] == passes
    torch.testing.assert_close(output.loss.detach(), -2 * torch.tensor([-1.0, -0.36, -0.81]).clamp(*bounds))
    torch.testing.assert_close(output.metrics["tiny"], torch.tensor([-1.0, -0.36, -0.81]))
    assert output.metrics["tiny_clipped"].tolist() == [float(not through) for through in passes]


def test_a_crop_is_the_square_at_its_place_in_whole_latents() -> None:
    x0, crop_positions = samples(), torch.tensor([[0.01, 0.01], [0.99, 0.99], [0.5, 0.34]])
    found = RewardTerm([WeightedReward("tiny", Likeness())], crop=4).images(
        student(x0, Condition(LABELS), Latent(), crop_positions)
    )
    corners = [(0, 0), (2, 4), (1, 1)]  # of 3 rows and 5 columns at which 2x2 latents fit
    expected = torch.cat(
        [x0[row : row + 1, :, top : top + 2, left : left + 2] for row, (top, left) in enumerate(corners)]
    )
    torch.testing.assert_close(found, Latent().decode(expected))
    gradient = torch.autograd.grad(found[0].sum(), x0)[0]
    assert gradient[0, 0, :2, :2].min() > 0
    assert gradient.count_nonzero() == 4


def test_every_place_of_a_crop_is_as_likely() -> None:
    crop_positions = torch.rand(30_000, 2, generator=torch.Generator().manual_seed(0))
    numbered = torch.arange(24.0).reshape(1, 1, 4, 6).expand(len(crop_positions), 1, 4, 6)
    corners = crop(numbered, 2, crop_positions)[:, 0, 0, 0]
    counts = corners.long().bincount(minlength=24).reshape(4, 6)
    assert (counts[:3, :5] - 2000).abs().max() < 4 * 2000**0.5
    assert counts.sum() == counts[:3, :5].sum()


def test_a_shrunk_sample_is_its_means_decoded() -> None:
    x0 = samples()
    found = RewardTerm([WeightedReward("tiny", Likeness())], downscale=2).images(
        student(x0, Condition(LABELS), Latent())
    )
    means = x0.detach().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    torch.testing.assert_close(found.detach(), Latent().decode(means))


class Deep(Latent):
    """A decoder that holds much for the way back."""

    def decode(self, x0: Tensor) -> Tensor:
        self.calls.append(len(x0))
        for _ in range(20):
            x0 = x0.sin()
        return x0.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_decoder_is_gone_through_again_one_sample_at_a_time_with_the_same_gradient() -> None:
    cond, gradients, held, calls = Condition(torch.tensor([2, 3, 4])), [], [], []
    for checkpoint in (True, False):
        x0, generator, kept = samples(), Deep(), set()
        with saved_tensors_hooks(
            lambda value, kept=kept: kept.add(value.data_ptr()) or value, lambda value: value
        ):
            loss = RewardTerm([WeightedReward("tiny", Likeness())], checkpoint_decoder=checkpoint)(
                student(x0, cond, generator)
            ).loss.sum()
        held.append(len(kept))
        gradients.append(torch.autograd.grad(loss, x0)[0])
        calls.append(generator.calls)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert calls == [[1] * 6, [3]]
    assert held[0] + 15 < held[1]


def test_rewards_see_float32_under_mixed_precision() -> None:
    reward = Likeness()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        RewardTerm([WeightedReward("tiny", reward)])(
            student(samples().bfloat16(), Condition(torch.tensor([2, 3, 4])), Plain())
        )
        probe = RewardTerm([WeightedReward("linear", Linear())])(student(samples(), Condition(), Plain()))
    assert reward.seen == [torch.float32]
    assert probe.loss.dtype == torch.float32


class Linear(Reward):
    """A matrix product, which autocast would compute in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(24, 1)

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        value = self.layer(images.flatten(1))[:, 0]
        assert value.dtype == torch.float32
        return value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"downscale": 3}, "terms: reward's downscale is 3; expected a divisor of 4, the samples' own size"),
        ({"crop": 3}, "terms: reward's crop is 3; expected a multiple of 2 up to 8"),
        ({"crop": 10}, "terms: reward's crop is 10; expected a multiple of 2 up to 8"),
        ({"crop": 8, "downscale": 2}, "terms: reward's crop is 8; expected a multiple of 2 up to 4"),
    ],
)
def test_what_does_not_fit_the_samples_is_refused(
    settings: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_rewards.offer(monkeypatch)
    with pytest.raises(UserError) as error:
        Settings(weight=1, rewards=({"name": "tiny"},), **settings).check_model(Latent())
    assert str(error.value) == message


def test_vectors_are_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_rewards.offer(monkeypatch)
    vectors = Plain()
    vectors.image_shape = (2,)
    with pytest.raises(UserError, match="terms: reward judges images; expected a teacher of images"):
        Settings(weight=1, rewards=({"name": "tiny"},)).check_model(vectors)
