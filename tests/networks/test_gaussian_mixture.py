"""The Gaussian mixture against torch.distributions, autograd of its density, and moments of its draws."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from distill.diffusion.schedules import DDPM, EDM, Flow
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.teachers.gaussian_mixture import Settings
from distill.types import Condition, NoiseSchedule

COMPONENTS = [
    {"mean": [1.0, -0.5], "covariance": [[0.5, 0.3], [0.3, 0.4]], "weight": 1.0, "label": 0},
    {"mean": [-2.0, 0.5], "covariance": [[0.2, -0.1], [-0.1, 0.9]], "weight": 3.0, "label": 1},
    {"mean": [0.5, 2.0], "std": [0.3, 0.7], "weight": 2.0, "label": 1},
]
SCHEDULES = {"edm": EDM(), "ddpm": DDPM.linear(), "flow": Flow()}


def build(schedule: str = "edm", components: list[dict] = COMPONENTS) -> GaussianMixture:
    return Settings.model_validate({"components": components, "schedule": schedule}).load().double()


def exact(schedule: NoiseSchedule, level: float, chosen: list[int]) -> tuple[MixtureSameFamily, float, float]:
    """Return these components plus noise at sigma/alpha = `level` by torch.distributions, alpha and sigma."""
    t = schedule.t(torch.tensor([level], dtype=torch.float64))
    alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
    rows = [COMPONENTS[i] for i in chosen]
    covariances = []
    for row in rows:
        std = torch.tensor(row.get("std", [0.0]), dtype=torch.float64)
        covariances.append(row.get("covariance", torch.diag(std**2).tolist()))
    covariance = alpha**2 * torch.tensor(covariances, dtype=torch.float64)
    covariance = covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
    means = alpha * torch.tensor([row["mean"] for row in rows], dtype=torch.float64)
    weights = Categorical(torch.tensor([row["weight"] for row in rows], dtype=torch.float64))
    return MixtureSameFamily(weights, MultivariateNormal(means, covariance)), alpha, sigma


def points(count: int = 40) -> Tensor:
    return 2 * torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("label", "chosen"), [(None, [0, 1, 2]), (0, [0]), (1, [1, 2])])
def test_density_and_prediction_are_those_of_the_noised_mixture(
    name: str, label: int | None, chosen: list[int]
) -> None:
    teacher, schedule = build(name), SCHEDULES[name]
    cond = Condition(None if label is None else torch.full((40,), label))
    for level in (0.1, 0.7, 3.0):
        mixture, alpha, sigma = exact(schedule, level, chosen)
        x_t = (alpha * points()).requires_grad_()
        t = schedule.t(torch.full((40,), level, dtype=torch.float64))
        log_density = mixture.log_prob(x_t)
        # The settings hold float32, whose covariances are those of COMPONENTS to seven digits.
        torch.testing.assert_close(teacher.log_density(x_t, t, cond), log_density, rtol=1e-5, atol=1e-5)
        score = torch.autograd.grad(log_density.sum(), x_t)[0]
        torch.testing.assert_close(
            teacher(x_t, t, cond), (x_t + sigma**2 * score) / alpha, rtol=1e-5, atol=1e-5
        )


def test_its_prediction_is_its_own_score() -> None:
    """Tweedie's formula holds within its own numbers, to the precision of its axes, which are float32."""
    teacher, t = build("ddpm"), torch.full((40,), 300.0, dtype=torch.float64)
    x_t = points().requires_grad_()
    score = torch.autograd.grad(teacher.log_density(x_t, t, Condition()).sum(), x_t)[0]
    alpha, sigma = (part(t)[:, None] for part in (teacher.schedule.alpha, teacher.schedule.sigma))
    torch.testing.assert_close(
        teacher(x_t, t, Condition()), (x_t + sigma**2 * score) / alpha, rtol=1e-6, atol=1e-6
    )


def test_responsibilities_are_bayes_rule() -> None:
    teacher, t = build(), torch.full((40,), 0.5, dtype=torch.float64)
    each = torch.stack(
        [exact(EDM(), 0.5, [i])[0].log_prob(points()).exp() * COMPONENTS[i]["weight"] for i in range(3)], 1
    )
    torch.testing.assert_close(
        teacher.responsibilities(points(), t, Condition()),
        each / each.sum(1, keepdim=True),
        rtol=1e-5,
        atol=1e-6,
    )


def test_draws_have_the_mixtures_moments() -> None:
    teacher, count = build(), 200_000
    drawn = teacher.draw(count, torch.Generator().manual_seed(0), Condition())
    mixture = exact(EDM(), 1e-9, [0, 1, 2])[0]
    error = (drawn.mean(0) - mixture.mean) / (mixture.variance / count).sqrt()
    assert error.abs().max() < 4
    torch.testing.assert_close(drawn.var(0), mixture.variance, rtol=0.02, atol=0)
    only = teacher.draw(
        count, torch.Generator().manual_seed(0), Condition(torch.zeros(count, dtype=torch.int64))
    )
    covariance = torch.tensor(COMPONENTS[0]["covariance"], dtype=torch.float64)
    torch.testing.assert_close(only.T.cov(), covariance, rtol=0.02, atol=0.003)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: {"mean": [1.0]}}, "components.1.mean: has 1 elements; expected 2 as the first"),
        ({0: {"std": 1.0}}, "components.0: expected std or covariance, one of them"),
        ({2: {"std": [1.0, 1.0, 1.0]}}, "components.2.std: has 3 elements; expected 1 or 2"),
        ({0: {"covariance": [[1.0, 0.0]]}}, "components.0.covariance: expected 2 rows of 2"),
        (
            {0: {"covariance": [[1.0, 2.0], [2.0, 1.0]]}},
            "components.0.covariance: expected symmetric and positive definite",
        ),
        (
            {0: {"covariance": [[1.0, 0.5], [0.0, 1.0]]}},
            "components.0.covariance: expected symmetric and positive definite",
        ),
        ({1: {"label": None}}, "components.1.label: expected a label for every component or for none"),
        (
            {1: {"label": 2}, 2: {"label": 2}},
            "components: none has the label 1; expected all from 0 to the highest",
        ),
        ({0: {"label": 1}}, "components: none has the label 0; expected all from 0 to the highest"),
    ],
)
def test_bad_components_are_named(change: dict[int, dict], message: str) -> None:
    rows = [{**row, **change.get(number, {})} for number, row in enumerate(COMPONENTS)]
    with pytest.raises(ValidationError) as error:
        build(components=rows)
    assert message in str(error.value)
