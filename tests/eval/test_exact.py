"""Laboratory measurements against closed forms, and a whole laboratory run through its commands."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from distill.config.errors import UserError
from distill.diffusion.schedules import DDPM, EDM
from distill.eval.__main__ import main as evaluate
from distill.eval.metrics.exact import LaboratoryMonitor, divergences_to_teacher, mode_shares, stray_share
from distill.networks.exact.affine import Affine
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.exact.marginal import marginal
from distill.types import NoiseSchedule
from tests.helpers.runs import write_finished_run
from train import main as train

DOUBLE = torch.float64


def two_modes() -> GaussianMixture:
    return GaussianMixture(
        torch.tensor([3.0, 1.0]), torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), torch.full((2, 2), 0.25), EDM()
    ).double()


@pytest.mark.parametrize("schedule", [EDM(), DDPM.linear()], ids=["edm", "ddpm"])
def test_divergences_between_gaussians_are_the_closed_form(schedule: NoiseSchedule) -> None:
    teacher = GaussianMixture(
        torch.ones(1), torch.tensor([[0.5, 0.0]]), torch.tensor([[1.0, 0.5]]), schedule
    ).double()
    student = Affine(2).double()
    student.load_state_dict(
        {"mean": torch.tensor([[0.2, -0.1]]), "matrix": torch.tensor([[[0.8, 0.2], [0.1, 0.9]]])}
    )
    level, matrix = 0.3**2 * torch.eye(2, dtype=DOUBLE), student.matrix[0].detach()
    p = MultivariateNormal(
        torch.tensor([0.5, 0.0], dtype=DOUBLE), torch.diag(torch.tensor([1.0, 0.5], dtype=DOUBLE)) + level
    )
    q = MultivariateNormal(student.mean[0].detach(), matrix @ matrix.T + level)
    found = divergences_to_teacher(("reverse_kl", "forward_kl"), teacher, marginal(student, schedule))
    assert found["reverse_kl"] == pytest.approx(kl_divergence(q, p).item(), rel=1e-5)
    assert found["forward_kl"] == pytest.approx(kl_divergence(p, q).item(), rel=1e-5)


@pytest.mark.parametrize("distance", [6.5, 1e6])
def test_a_student_far_away_is_far_in_every_divergence(distance: float) -> None:
    """The student is on the grid or off it.

    2 log 2 is the largest Jensen-Shannon divergence (a sum of two, not their mean), and the log-ratio is
    clamped at 30.
    """
    student = Affine(2).double()
    student.load_state_dict(
        {"mean": torch.tensor([[0.0, distance]]), "matrix": torch.tensor([[[0.01, 0.0], [0.0, 0.01]]])}
    )
    found = divergences_to_teacher(
        ("reverse_kl", "forward_kl", "jensen_shannon"), two_modes(), marginal(student, EDM())
    )
    assert found == {
        name: pytest.approx(value, rel=1e-3)
        for name, value in (("reverse_kl", 30), ("forward_kl", 30), ("jensen_shannon", 2 * math.log(2)))
    }


def test_shares_are_counted_by_the_nearest_mode() -> None:
    samples = torch.tensor([[-2.0, 0.1], [-2.1, 0.0], [2.0, 0.0], [2.2, 0.2]], dtype=DOUBLE)
    assert mode_shares(two_modes(), samples).tolist() == [0.5, 0.5]
    assert LaboratoryMonitor(two_modes()).measure(samples) == {
        "mode_error": pytest.approx(0.25),
        "stray": 0.0,
    }


def test_a_stray_sample_is_four_standard_deviations_from_every_mode() -> None:
    # The modes have standard deviation 1/2.
    samples = torch.tensor([[0.0, 0.0], [-2.0, 1.99], [-2.0, 2.01], [4.1, 0.0]], dtype=DOUBLE)
    assert stray_share(two_modes(), samples) == 0.5


def test_a_run_of_the_laboratory_is_measured_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """An affine student with exact everything becomes the Gaussian that its teacher is."""
    (tmp_path / "run.yaml").write_text("""
task: distill
run_dir: run
teacher: {name: gaussian_mixture, components: [{mean: [1.0, -0.5], covariance: [[0.8, 0.3], [0.3, 0.5]]}]}
steps: 200
batch_size: 256
generator:
  network: {name: affine}
  noise_levels: {name: karras, sigma_min: 0.3, sigma_max: 3, rho: 3}
  optimizer: {name: adam, lr: 3e-2, betas: [0.9, 0.99], decay_from: 0.5}
  ema: 0.9
fake: {network: {name: exact}}
ratio: {source: exact}
objective: {name: expanded_divergence, divergence: forward_kl}
""")
    monkeypatch.chdir(tmp_path)
    train(["run.yaml"])
    evaluate(["--run", "run", "--n", "500"])
    found = json.loads(Path("run/eval.json").read_text())
    assert found["protocol"] == "laboratory"
    assert abs(found["student"]["reverse_kl"]) < 1e-4
    assert found["student"]["mode_shares"] == [1.0]
    assert "forward_kl  0.0000" in capsys.readouterr().out
    assert found["student"]["mode_error"] == pytest.approx(0.0, abs=1e-6)
    assert Path("run/samples/step-00000200.png").is_file()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--prompts", "cats.txt"), ("--protocol", "fd-pixel"), ("--guidance", "2"), ("--features", "kept")],
)
def test_flags_of_images_are_refused_for_a_run_of_vectors(tmp_path: Path, flag: str, value: str) -> None:
    teacher = {"name": "gaussian_mixture", "components": [{"mean": [0.0, 0.0], "std": 1.0}]}
    run = write_finished_run(tmp_path / "run", teacher)
    with pytest.raises(UserError) as caught:
        evaluate(["--run", str(run), flag, value])
    assert str(caught.value) == (
        f"{flag}: goes with images; {run} is a run of vectors, which are compared with their exact teacher; "
        "leave it out"
    )
