"""The gradient of the generator's loss is that of the divergence, in two dimensions of the laboratory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from distill.divergences import Divergence, parse
from distill.networks.exact.affine import Affine
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.training.batches import Batch
from distill.training.distillation.build import build_critic, build_generator, build_method
from distill.training.distillation.losses import generator_loss
from distill.training.distillation.method import Method, Networks
from distill.types import Condition
from tests.helpers.runs import read_run

LEVEL = 0.8
RUN = f"""
task: distill
run_dir: unused
steps: 1
teacher:
  name: gaussian_mixture
  schedule: %s
  components:
    - {{mean: [1.0, 0.5], covariance: [[1.0, 0.4], [0.4, 0.7]], weight: 2}}
    - {{mean: [-0.8, 0.0], std: [0.9, 1.1]}}
generator:
  network: {{name: affine}}
  noise_levels: {{name: karras, sigma_min: {LEVEL}, sigma_max: {LEVEL}}}
fake: {{network: {{name: exact}}}}
ratio: {{source: exact, low: 1e-12, high: 1e12, normalise: false}}
objective: {{name: %s, divergence: %s, weighting: score}}
"""
MEAN = torch.tensor([[0.2, -0.1]])
MATRIX = torch.tensor([[[0.8, 0.2], [0.1, 0.9]]])
BATCHES, SIZE = 50, 20_000


def build(tmp_path: Path, schedule: str, objective: str, divergence: str) -> tuple[Networks, Method]:
    """Build a run of `RUN` in float64, with an affine student of `MEAN` and `MATRIX`."""
    (tmp_path / "run.yaml").write_text(RUN % (schedule, objective, divergence))
    config = read_run(tmp_path / "run.yaml")
    teacher = config.teacher.load().double()
    student = build_generator(config.generator, teacher).double()
    student.load_state_dict({"mean": MEAN, "matrix": MATRIX})
    cpu = torch.device("cpu")
    fake = config.fake.network.build(teacher, student)
    networks = Networks(teacher, fake, student, build_critic(config, teacher, fake, cpu))
    return networks, build_method(config, cpu)


def sampled_gradient(networks: Networks, method: Method) -> tuple[Tensor, Tensor]:
    """Return mean and standard error of the step's gradient over `BATCHES` batches.

    Both are (6,): two elements for the student's mean, four for its matrix.
    """
    random = torch.Generator().manual_seed(0)
    student = networks.generator
    gradients = []
    for _ in range(BATCHES):
        z, eps = torch.randn(2, SIZE, 2, generator=random, dtype=torch.float64)
        u = torch.rand(SIZE, generator=random, dtype=torch.float64)
        batch = Batch(z, Condition(), u, eps, u, eps, None, eps)
        loss = generator_loss(networks, method, batch, student(z, Condition()), method.at(0))[0]["objective"]
        gradient = torch.autograd.grad(loss, [student.mean, student.matrix])
        gradients.append(torch.cat([part.flatten() for part in gradient]))
    each = 2 * torch.stack(gradients)  # a loss is the mean over the two elements of a sample
    return each.mean(0), each.std(0) / BATCHES**0.5


Integrand = Callable[[Divergence, GaussianMixture, MultivariateNormal, Tensor, Tensor, Tensor], Tensor]


def quadrature_gradient(networks: Networks, divergence: Divergence, integrand: Integrand) -> Tensor:
    """Return the gradient of int q integrand dx, (6,), by autograd through the student's density."""
    teacher, student = networks.teacher, networks.generator
    assert isinstance(teacher, GaussianMixture)
    assert isinstance(student, Affine)
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    t = teacher.schedule.t(x.new_full((len(x),), LEVEL))
    alpha, sigma = teacher.schedule.alpha(t)[0], teacher.schedule.sigma(t)[0]
    x = alpha * x
    matrix = student.matrix[0]
    covariance = alpha**2 * matrix @ matrix.T + sigma**2 * torch.eye(2, dtype=torch.float64)
    q = MultivariateNormal(alpha * student.mean[0], covariance)
    log_q = q.log_prob(x)
    log_ratio = teacher.log_density(x, t, Condition()) - log_q
    cell = (alpha * 18 / 360) ** 2
    total = (cell * log_q.exp() * integrand(divergence, teacher, q, x, t, log_ratio)).sum()
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, [student.mean, student.matrix])])


def divergence_itself(
    divergence: Divergence,
    teacher: GaussianMixture,
    q: MultivariateNormal,
    x: Tensor,
    t: Tensor,
    log_ratio: Tensor,
) -> Tensor:
    return divergence.f(log_ratio)


def squared_score_difference(
    divergence: Divergence,
    teacher: GaussianMixture,
    q: MultivariateNormal,
    x: Tensor,
    t: Tensor,
    log_ratio: Tensor,
) -> Tensor:
    """Return h |s_p - s_q|^2, the integrand of the expansion."""
    alpha, sigma = teacher.schedule.alpha(t)[:, None], teacher.schedule.sigma(t)[:, None]
    s_p = (alpha * teacher(x, t, Condition()) - x) / sigma**2
    s_q = torch.linalg.solve(q.covariance_matrix, (q.mean - x).T).T
    return divergence.h(log_ratio) * (s_p - s_q).square().sum(1)


NAMES = ["reverse_kl", "forward_kl", "jensen_shannon", "0.4*forward_kl+0.6*reverse_kl"]
QUICK = [("reverse_kl", "flow"), ("forward_kl", "edm"), ("jensen_shannon", "ddpm")]
CASES = [(name, schedule) for name in NAMES for schedule in ("edm", "ddpm", "flow")]


@pytest.mark.parametrize(
    ("name", "schedule"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)
@pytest.mark.parametrize(
    ("objective", "integrand"),
    [("distribution_matching", divergence_itself), ("expanded_divergence", squared_score_difference)],
)
def test_the_step_takes_the_gradient_of_the_divergence(
    tmp_path: Path, name: str, schedule: str, objective: str, integrand: Integrand
) -> None:
    """A million samples agree within four standard errors, each at most 2 % of the largest gradient."""
    networks, method = build(tmp_path, schedule, objective, name)
    expected = quadrature_gradient(networks, parse(name), integrand)
    mean, error = sampled_gradient(networks, method)
    assert ((mean - expected).abs() / error).max() < 4, (
        f"{mean.tolist()} ± {error.tolist()} is not {expected.tolist()}"
    )
    assert error.max() < 0.02 * expected.abs().max()
