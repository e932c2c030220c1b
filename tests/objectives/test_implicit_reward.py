"""The implicit reward against the density of the condition under a labelled mixture, and against guidance
inside the reference score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import Karras, LogNormal, t_below
from distill.diffusion.schedules import DDPM, EDM, Flow
from distill.divergences import parse
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes
from distill.objectives import distribution_matching
from distill.objectives.gradients.weighting import Weighting
from distill.objectives.term import TermInputs
from distill.objectives.terms.implicit_reward import Settings, implicit_reward
from distill.training.batches import Batch, Noise
from distill.training.distillation.losses import generator_loss
from distill.training.distillation.method import Method, Networks, WeightedTerm
from distill.types import Condition, Generator, NoiseSchedule, Prediction, Scores, StepInputs, expand_like

SCHEDULES = {"edm": EDM(), "ddpm": DDPM.linear(), "flow": Flow()}
LABELS = torch.tensor([0, 1, 2, 1, 0])
T = {
    "edm": [0.2, 0.7, 1.0, 2.0, 4.0],
    "ddpm": [100.0, 300.0, 400.0, 600.0, 800.0],
    "flow": [0.1, 0.3, 0.5, 0.7, 0.9],
}


def mixture(schedule: NoiseSchedule) -> GaussianMixture:
    weights, means = (
        torch.tensor([1.0, 2.0, 3.0, 1.5]),
        torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, -1.0], [2.0, 2.0]]),
    )
    variances = torch.tensor([[0.5, 0.2], [0.3, 0.9], [0.4, 0.4], [0.1, 0.6]])
    return GaussianMixture(weights, means, variances, schedule, labels=torch.tensor([0, 1, 2, 0])).double()


def draw(count: int) -> Tensor:
    return torch.randn(count, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def looked_at(name: str, x0: Tensor, eps: Tensor) -> tuple[TermInputs, GaussianMixture, Tensor]:
    """A student's samples noised, and what the teacher says of them."""
    schedule, teacher, t = (
        SCHEDULES[name],
        mixture(SCHEDULES[name]),
        torch.tensor(T[name], dtype=torch.float64),
    )
    alpha, sigma = expand_like(schedule.alpha(t), x0), expand_like(schedule.sigma(t), x0)
    x_t = alpha * x0 + sigma * eps
    conditional, unconditional = teacher(x_t, t, Condition(LABELS)), teacher(x_t, t, Condition())
    scores = Scores(x0, x_t, alpha, sigma, conditional, conditional, x0.new_zeros(5))
    prediction = Prediction(conditional, None, conditional.detach(), unconditional.detach())
    return TermInputs(scores, Condition(LABELS), Still(), prediction), teacher, t


class Still(Generator):
    image_shape, label_count = (2,), 3

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return z


@pytest.mark.parametrize("name", SCHEDULES)
def test_its_descent_makes_the_condition_more_likely(name: str) -> None:
    """In units of the score its gradient is that of -log p_t(c|x_t), sample by sample: Bayes' rule, by
    autograd through the exact densities."""
    x0, eps = draw(2)
    x0.requires_grad_(True)
    student, teacher, t = looked_at(name, x0, eps)
    found = torch.autograd.grad(2 * implicit_reward(student, "score").loss.sum(), x0, retain_graph=True)[
        0
    ]  # per dimension, of which there are two
    x_t = student.scores.x_t
    posterior = teacher.log_density(x_t, t, Condition(LABELS)) - teacher.log_density(x_t, t, Condition())
    expected = torch.autograd.grad(-posterior.sum(), x0)[0]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weighting", ["score", "prediction", "dmd"])
def test_weightings_are_the_objective_s(weighting: Weighting) -> None:
    x0, eps = draw(2)
    x0.requires_grad_(True)
    student, _, _ = looked_at("ddpm", x0, eps)
    conditional, unconditional = student.teacher.conditional, student.teacher.unconditional
    assert conditional is not None
    assert unconditional is not None
    found = torch.autograd.grad(implicit_reward(student, weighting).loss.sum(), x0, retain_graph=True)[0]
    factor = {
        "score": (student.scores.alpha / student.scores.sigma).square(),
        "prediction": torch.ones(5, 1, dtype=torch.float64),
        "dmd": 1 / (x0 - conditional).detach().abs().mean(1, keepdim=True),
    }[weighting]
    torch.testing.assert_close(
        found,
        (-factor * (conditional - unconditional) / 2).detach(),
        rtol=1e-10,
        atol=1e-12,
    )


def step(
    weighting: Weighting, guidance: GuidanceScales, weight: float, fake: MLP, cond: Condition
) -> tuple[Tensor, dict]:
    """Gradient of the whole generator loss with respect to the samples, and the metrics."""
    # The theorem holds for negative weights too, which the settings refuse.
    settings = Settings(weight=1.0, weighting=weighting).model_copy(update={"weight": weight})
    term = WeightedTerm(settings, settings.build())
    levels, u = LogNormal(mean=0.0), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)

    def objective(scores: Scores):
        return distribution_matching(scores, parse("reverse_kl"), weighting)

    method = Method(objective, False, 1.0, None, (term,) if weight else (), levels, levels, guidance)
    x0, eps = draw(2)
    x0.requires_grad_(True)
    losses, metrics = generator_loss(
        Networks(mixture(EDM()), fake, Still()),
        method,
        Batch(x0, cond, u, eps, u, eps, None, eps),
        x0,
        method.at(0),
    )
    return torch.autograd.grad(sum(losses.values()), x0)[0], metrics


def network() -> MLP:
    torch.manual_seed(0)
    fake = MLP(MLPConfig(2, 3, sizes=MLPSizes(width=16)), EDM()).double()
    for parameter in fake.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return fake.eval()


@pytest.mark.parametrize("scale", [1.5, 4.0, 0.25])
@pytest.mark.parametrize("weighting", ["score", "prediction"])
def test_guidance_inside_is_the_implicit_reward_outside(weighting: Weighting, scale: float) -> None:
    """Reverse KL to a teacher guided by s is reverse KL to the unguided one and s - 1 times the implicit
    reward: the same gradient."""
    fake = network()
    inside, _ = step(weighting, GuidanceScales(teacher=scale), 0.0, fake, Condition(LABELS))
    plain, _ = step(weighting, GuidanceScales(), 0.0, fake, Condition(LABELS))
    outside, metrics = step(weighting, GuidanceScales(), scale - 1, fake, Condition(LABELS))
    assert (inside - plain).abs().max() > 0.01
    torch.testing.assert_close(outside, inside, rtol=1e-10, atol=1e-12)
    assert metrics["implicit_reward/side_gap"] > 0


def test_beside_a_guided_fake_score_it_is_the_teacher_s_sides_that_count() -> None:
    fake = network()
    inside, _ = step("prediction", GuidanceScales(teacher=3.0, fake=2.0), 0.0, fake, Condition(LABELS))
    outside, _ = step("prediction", GuidanceScales(fake=2.0), 2.0, fake, Condition(LABELS))
    torch.testing.assert_close(outside, inside, rtol=1e-10, atol=1e-12)


def test_without_a_label_nothing_is_asked_for() -> None:
    fake, cond = network(), Condition(torch.tensor([0, -1, 2, -1, 0]))
    plain, outside = (step("score", GuidanceScales(), weight, fake, cond)[0] for weight in (0.0, 3.0))
    torch.testing.assert_close(outside[[1, 3]], plain[[1, 3]], rtol=0, atol=0)
    assert (outside - plain)[[0, 2, 4]].abs().min() > 0


def test_it_needs_a_condition_and_both_sides() -> None:
    unlabelled = Still()
    unlabelled.label_count = 0
    with pytest.raises(
        UserError, match="terms: implicit_reward needs a condition; expected a teacher of labels or text"
    ):
        Settings(weight=1.0).check_model(unlabelled)
    nothing = torch.zeros(5, 2)
    scores = Scores(nothing, nothing, torch.ones(5, 1), torch.ones(5, 1), nothing, nothing, torch.zeros(5))
    with pytest.raises(
        ValueError,
        match="terms: implicit_reward needs the teacher's predictions with a condition and without one",
    ):
        implicit_reward(TermInputs(scores, Condition(LABELS), Still(), Prediction(nothing)))


OWN = Noise(
    torch.tensor([0.2, 0.8, 0.6, 0.4, 0.3], dtype=torch.float64),
    torch.randn(5, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64),
)
LEVELS, OWN_LEVELS = LogNormal(mean=0.0), Karras(sigma_min=0.1, sigma_max=3.0)


class OfSteps(Still):
    """A student that enters its second step at 0.8."""

    def resumed_at(
        self, z: Tensor, cond: Condition, inputs: StepInputs | None = None
    ) -> float | Tensor | None:
        if inputs is not None:
            return torch.tensor([math.inf, 0.8], dtype=torch.float64)[inputs.step]
        return None if z.shape[1] == 2 else 0.8


def decoupled(
    settings: Settings, weighting: Weighting, z: Tensor, step: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return samples and each loss's gradient there, with an unguided objective at other noise.

    With `step` the samples take these steps from real images.
    """
    u = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)

    def objective(scores: Scores):
        return distribution_matching(scores, parse("reverse_kl"), weighting)

    term = WeightedTerm(settings, settings.build())
    method = Method(objective, False, 1.0, None, (term,), LEVELS, LEVELS)
    x0, eps = draw(2)
    x0.requires_grad_(True)
    real = None if step is None else torch.zeros_like(z)
    batch = Batch(z, Condition(LABELS), u, eps, u, eps, real, step=step, implicit_reward_noise=OWN)
    losses, _ = generator_loss(
        Networks(mixture(EDM()), network(), OfSteps()), method, batch, x0, method.at(0)
    )
    gradients = {name: torch.autograd.grad(loss, x0, retain_graph=True)[0] for name, loss in losses.items()}
    return x0.detach(), gradients


@pytest.mark.parametrize("weighting", ["score", "dmd"])
@pytest.mark.parametrize("steps", [1, 2])
def test_with_levels_of_its_own_it_is_decoupled_dmd_s_augmentation(weighting: Weighting, steps: int) -> None:
    """Eq. 8 of Liu et al. 2025: the two sides are compared at tau_CA, below the second step's entry alone.

    In units of the score it is (alpha - 1) times the gradient of -log p_t(c|x_t) at that level, by autograd.
    """
    settings = Settings(weight=1.5, weighting=weighting, noise_levels=OWN_LEVELS, below_step=True)
    x0, gradients = decoupled(settings, weighting, torch.zeros(5, 2 * steps, dtype=torch.float64))
    teacher = mixture(EDM())
    t = OWN_LEVELS.t(OWN.u, EDM()) if steps == 1 else t_below(OWN_LEVELS, OWN.u, 0.8, EDM())
    assert t.max() > 1 if steps == 1 else t.max() <= 0.8
    x_t = (x0 + t[:, None] * OWN.eps).requires_grad_(True)
    if weighting == "score":
        posterior = teacher.log_density(x_t, t, Condition(LABELS)) - teacher.log_density(x_t, t, Condition())
        expected = torch.autograd.grad(-posterior.sum(), x_t)[0]
    else:
        conditional, unconditional = teacher(x_t, t, Condition(LABELS)), teacher(x_t, t, Condition())
        expected = (unconditional - conditional) / (x0 - conditional).abs().mean(1, keepdim=True)
    torch.testing.assert_close(
        gradients["implicit_reward"], 1.5 * expected.detach() / 2 / 5, rtol=1e-10, atol=1e-12
    )
    plain = Settings(weight=1.5, weighting=weighting)
    _, coupled = decoupled(plain, weighting, torch.zeros(5, 2, dtype=torch.float64))
    torch.testing.assert_close(gradients["objective"], coupled["objective"], rtol=0, atol=0)


def test_samples_that_take_their_steps_from_real_images_have_limits_of_their_own() -> None:
    """Those of the first step have all levels; the others have the gradient of a batch of two steps."""
    settings = Settings(weight=1.5, weighting="dmd", noise_levels=OWN_LEVELS, below_step=True)
    z, step = torch.zeros(5, 2, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1])
    _, found = decoupled(settings, "dmd", z, step)
    (_, first), (_, second) = (decoupled(settings, "dmd", z.repeat(1, steps)) for steps in (1, 2))
    assert (first["implicit_reward"] - second["implicit_reward"]).abs().max() > 1e-3
    expected = torch.where(step[:, None] == 0, first["implicit_reward"], second["implicit_reward"])
    torch.testing.assert_close(found["implicit_reward"], expected, rtol=1e-12, atol=0)


def test_the_objective_alone_does_not_pay_for_both_sides() -> None:
    """The teacher's pass at the objective's noise has one side; the term's own has two."""
    teacher, sizes = mixture(EDM()), []
    teacher.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    settings = Settings(weight=1.0, noise_levels=OWN_LEVELS)
    method = Method(
        lambda scores: distribution_matching(scores, parse("reverse_kl"), "dmd"),
        False,
        1.0,
        None,
        (WeightedTerm(settings, settings.build()),),
        LEVELS,
        LEVELS,
    )
    x0, eps = draw(2)
    u = torch.full((5,), 0.5, dtype=torch.float64)
    batch = Batch(x0, Condition(LABELS), u, eps, u, eps, implicit_reward_noise=OWN)
    generator_loss(Networks(teacher, network(), Still()), method, batch, x0, method.at(0))
    assert sizes == [5, 10]


def test_a_limit_needs_levels_of_its_own() -> None:
    with pytest.raises(ValueError, match="below_step: goes with noise_levels; expected a distribution"):
        Settings(weight=1.0, below_step=True)


def test_a_student_resumes_at_the_entry_of_its_last_step() -> None:
    student = FewStepGenerator(network(), 2.5, 0.7, 0.2)
    z = torch.zeros(1, 6, dtype=torch.float64)
    assert [student.resumed_at(z[:, : 2 * steps], Condition()) for steps in (1, 2, 3)] == [None, 0.7, 0.2]
    inputs = StepInputs(torch.zeros(3, 2, dtype=torch.float64), torch.tensor([2, 0, 1]))
    found = student.resumed_at(inputs.images, Condition(), inputs)
    assert isinstance(found, Tensor)
    assert found.tolist() == [0.2, math.inf, 0.7]
