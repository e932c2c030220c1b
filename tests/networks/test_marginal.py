"""The student's exact marginal, of affine students and by quadrature, and the exact fake score and ratio."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from distill.diffusion.schedules import DDPM, EDM, Flow
from distill.networks.exact.affine import Affine
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.exact.marginal import ExactDiscriminator, ExactFakeScore, PointMasses, marginal
from distill.types import Condition, Generator, NoiseSchedule

MEAN = torch.tensor([[0.5, -0.3], [1.5, 0.2]], dtype=torch.float64)
MATRIX = torch.tensor([[[0.8, 0.3], [-0.2, 0.6]], [[0.4, 0.0], [0.5, 0.9]]], dtype=torch.float64)


def affine(label_count: int) -> Affine:
    student = Affine(2, label_count).double()
    student.load_state_dict({"mean": MEAN[: max(1, label_count)], "matrix": MATRIX[: max(1, label_count)]})
    return student


class Wrapped(Generator):
    """An affine student that is not known to be one."""

    def __init__(self, inner: Affine) -> None:
        super().__init__()
        self.inner = inner
        self.image_shape, self.label_count = inner.image_shape, inner.label_count

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return self.inner(z, cond)


class Bent(Generator):
    """The curve x = z + z^2/2, whose density after noise is a one-dimensional integral."""

    image_shape, label_count = (1,), 0

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return z + self.scale * z.square()


def points(scale: float = 1.0, row: int = 0) -> Tensor:
    """Points near that row of the student, since quadrature covers only where its mass is."""
    z, eps = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return MEAN[row] + z @ MATRIX[row].T + scale * eps


@pytest.mark.parametrize(
    "schedule", [EDM(), DDPM.linear(), Flow()], ids=lambda schedule: type(schedule).__name__
)
@pytest.mark.parametrize("label", [None, 1])
def test_affine_and_quadrature_are_the_gaussian(schedule: NoiseSchedule, label: int | None) -> None:
    count = 0 if label is None else 2
    cond = Condition(None if label is None else torch.full((50,), label))
    row = label or 0
    for level in (0.3, 1.0, 4.0):
        t = schedule.t(torch.full((50,), level, dtype=torch.float64))
        alpha, sigma = schedule.alpha(t)[0], schedule.sigma(t)[0]
        x_t = (alpha * points(level, row)).requires_grad_()
        covariance = alpha**2 * MATRIX[row] @ MATRIX[row].T + sigma**2 * torch.eye(2, dtype=torch.float64)
        log_density = MultivariateNormal(alpha * MEAN[row], covariance).log_prob(x_t)
        score = torch.autograd.grad(log_density.sum(), x_t)[0]
        for student in (affine(count), Wrapped(affine(count))):
            known = marginal(student, schedule, points=80)
            torch.testing.assert_close(known.log_density(x_t, t, cond), log_density, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                known(x_t, t, cond), (x_t + sigma**2 * score) / alpha, rtol=1e-6, atol=1e-6
            )


def test_a_student_of_two_labels_without_a_condition_is_their_mixture() -> None:
    student, t = affine(2), torch.full((50,), 0.5, dtype=torch.float64)
    each = [
        marginal(student, EDM()).log_density(points(0.5), t, Condition(torch.full((50,), label)))
        for label in (0, 1)
    ]
    expected = torch.stack(each).logsumexp(0) - math.log(2)
    for one in (student, Wrapped(student)):
        torch.testing.assert_close(
            marginal(one, EDM()).log_density(points(0.5), t, Condition()), expected, rtol=1e-6, atol=1e-6
        )


def test_a_bent_student_agrees_with_scipys_quadrature() -> None:
    from scipy.integrate import quad

    known = marginal(Bent(), EDM(), points=400)
    for x in (-0.4, 0.3, 2.0):

        def integrand(z: float, x: float = x) -> float:
            return math.exp(-(z**2) / 2 - (x - z - z**2 / 2) ** 2 / (2 * 0.25)) / (2 * math.pi * 0.5)

        expected = math.log(quad(integrand, -8, 8, epsabs=1e-13)[0])
        found = known.log_density(
            torch.tensor([[x]], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64), Condition()
        )
        assert found.item() == pytest.approx(expected, abs=1e-7)


def test_point_masses_are_a_mixture_without_variance() -> None:
    random = torch.Generator().manual_seed(0)
    masses = torch.randn(30, 2, generator=random).double()
    log_weights = torch.randn(30, generator=random).double()
    labels, t = torch.arange(30) % 3, torch.linspace(50, 900, 50, dtype=torch.float64)
    schedule = DDPM.linear()
    fast = PointMasses(masses, log_weights, schedule, labels)
    slow = GaussianMixture(log_weights.exp(), masses, torch.zeros_like(masses), schedule, labels=labels)
    for cond in (Condition(), Condition(torch.arange(50) % 3)):
        torch.testing.assert_close(fast(points(), t, cond), slow(points(), t, cond), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            fast.log_density(points(), t, cond), slow.log_density(points(), t, cond), rtol=1e-12, atol=1e-12
        )


def test_three_dimensions_are_too_many_for_quadrature_and_not_for_a_gaussian() -> None:
    student = Affine(3)
    assert isinstance(marginal(student, EDM()), GaussianMixture)
    with pytest.raises(
        ValueError, match="vectors of 3 elements; expected at most 2 for quadrature, or affine"
    ):
        marginal(Wrapped(student), EDM())


def test_the_exact_fake_score_follows_the_student_and_gives_the_log_ratio() -> None:
    student, t = affine(0), torch.full((50,), 0.7, dtype=torch.float64)
    teacher = GaussianMixture(torch.ones(1), MEAN[1:], torch.ones(1, 2), EDM()).double()
    fake = ExactFakeScore(teacher, student, points=64)
    prediction, features = fake(points(), t, Condition(), ExactDiscriminator().depths)
    known = marginal(student, EDM())
    torch.testing.assert_close(prediction, known(points(), t, Condition()))
    expected = teacher.log_density(points(), t, Condition()) - known.log_density(points(), t, Condition())
    torch.testing.assert_close(ExactDiscriminator()(features), expected)
    with torch.no_grad():
        student.mean.add_(1.0)
    torch.testing.assert_close(
        fake(points(), t, Condition()), marginal(student, EDM())(points(), t, Condition())
    )
    assert not torch.allclose(fake(points(), t, Condition()), prediction, atol=0.1)
    assert list(fake.parameters()) == []
