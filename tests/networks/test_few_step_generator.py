"""Students of several steps, by hand and in closed form; their runs, exports, reports and refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

import distill
from distill.config.errors import UserError
from distill.diffusion.sampling import balanced_labels, sample_generator, seeded_noise
from distill.diffusion.schedules import DDPM, EDM, Flow
from distill.eval.__main__ import main as evaluate
from distill.eval.images.streams import NetworkImages
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import checkpoints
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes, UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.publishing.report.page import write_report
from distill.training.config import read_config
from distill.types import Condition, NoiseSchedule, StepInputs
from sample import main as sample
from tests.helpers.gaussian_teacher import GaussianTeacher
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import train_run, write_run
from train import main as train

LABELS = Condition(torch.tensor([1, 2, 3]))


def random_unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(UNetConfig(8, 1, 10, sizes=UNetSizes(width=8, blocks=1))).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network


def test_one_step_is_the_denoiser_at_its_entry_to_the_last_bit() -> None:
    network, z = random_unet(), torch.randn(3, 1, 8, 8)
    generator = FewStepGenerator(network, 2.5)
    assert (generator.evaluations, generator.noise_shape) == (1, generator.image_shape)
    assert torch.equal(generator(z, LABELS), network(2.5 * z, torch.full((3,), 2.5), LABELS))


@pytest.mark.parametrize("schedule", [EDM(), DDPM.linear(), Flow()], ids=["edm", "ddpm", "flow"])
def test_two_steps_noise_the_first_image_anew(schedule: NoiseSchedule) -> None:
    torch.manual_seed(0)
    network = MLP(MLPConfig(2, 10, sizes=MLPSizes(width=16, blocks=1)), schedule)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    generator = FewStepGenerator(network, 5.0, 0.7)
    first, second = torch.randn(2, 3, 2)
    t = schedule.t(torch.tensor([5.0, 0.7]))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    torch.testing.assert_close(sigma / alpha, torch.tensor([5.0, 0.7]))
    x0 = network(sigma[0] * first, t[:1].expand(3), LABELS)
    expected = network(alpha[1] * x0 + sigma[1] * second, t[1:].expand(3), LABELS)
    torch.testing.assert_close(generator(torch.cat([first, second], 1), LABELS), expected)
    assert generator.noise_shape == (4,)
    torch.testing.assert_close(generator(first, LABELS), x0)  # one noise, one step
    with pytest.raises(ValueError, match="z: 3 noises; expected at most 2, one for each step"):
        generator(torch.randn(3, 6), LABELS)


@pytest.mark.parametrize("schedule", [EDM(), DDPM.linear(), Flow()], ids=["edm", "ddpm", "flow"])
def test_a_step_from_given_images_adds_the_noise_of_its_level(schedule: NoiseSchedule) -> None:
    """The first step of three reads pure noise, as in sampling; the others alpha x + sigma z."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(2, 10, sizes=MLPSizes(width=16, blocks=1)), schedule)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    generator = FewStepGenerator(network, 5.0, 0.7, 0.2)
    images, z = torch.randn(2, 3, 2)
    made = generator(z, LABELS, StepInputs(images, torch.tensor([2, 0, 1])))
    for row, (step, level) in enumerate([(2, 0.2), (0, 5.0), (1, 0.7)]):
        t = schedule.t(torch.tensor([level]))
        x_t = schedule.sigma(t) * z[row] + (schedule.alpha(t) * images[row] if step else 0)
        expected = network(x_t[None], t, Condition(LABELS.label[row : row + 1]))[0]
        torch.testing.assert_close(made[row], expected)
    with pytest.raises(ValueError, match="z: \\(3, 4\\); expected \\(3, 2\\), one noise for each"):
        generator(torch.randn(3, 4), LABELS, StepInputs(images, torch.tensor([0, 1, 2])))


def test_inputs_from_the_student_s_own_image_are_its_sampling() -> None:
    """The last of two steps from the image that the first one made is the two steps, to the last bit."""
    generator = FewStepGenerator(random_unet(), 2.5, 0.4)
    z = torch.randn(3, 2, 8, 8)
    first = generator(z[:, :1], LABELS).detach()
    last = generator(z[:, 1:], LABELS, StepInputs(first, torch.ones(3, dtype=torch.int64)))
    assert torch.equal(last, generator(z, LABELS))


def test_images_of_a_gaussian_teacher_have_the_variance_that_its_steps_leave() -> None:
    """Each step turns mean m and variance v, from (0, 0) on, into g m + (1 - g) mean and g^2 (v + sigma^2).

    Here g = std^2/(std^2 + sigma^2).
    """
    teacher = GaussianTeacher(mean=0.5, std=0.4)
    levels, mean, variance = (80.0, 2.0, 0.5, 0.2), 0.0, 0.0
    for sigma in levels:
        g = 0.4**2 / (0.4**2 + sigma**2)
        mean, variance = mean * g + (1 - g) * 0.5, g**2 * (variance + sigma**2)
    images = sample_generator(FewStepGenerator(teacher, *levels), range(4000), Condition())
    assert images.mean().item() == pytest.approx(mean, abs=0.01)
    assert images.std().item() == pytest.approx(math.sqrt(variance), rel=0.02)


def test_gradient_flows_through_the_last_step_only() -> None:
    network, z = random_unet(), torch.randn(3, 3, 8, 8)
    generator = FewStepGenerator(network, 2.5, 0.8, 0.2)

    def gradients(image: Callable[[], Tensor]) -> list[Tensor]:
        network.zero_grad()
        image().square().sum().backward()
        return [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]

    def by_hand(keep: Callable[[Tensor], Tensor]) -> Tensor:
        x0 = torch.zeros(3, 1, 8, 8)
        for sigma, noise in zip((2.5, 0.8, 0.2), z.split(1, 1), strict=True):
            x0 = network(keep(x0) + sigma * noise, torch.full((3,), sigma), LABELS)
        return x0

    mine = gradients(lambda: generator(z, LABELS))
    torch.testing.assert_close(mine, gradients(lambda: by_hand(Tensor.detach)))
    through_all = gradients(lambda: by_hand(lambda x0: x0))
    assert max((a - b).abs().max().item() for a, b in zip(mine, through_all, strict=True)) > 1e-3


def test_an_image_depends_on_its_seed_only_and_starts_as_that_of_one_step() -> None:
    network, cond = random_unet(), balanced_labels(5, 10)
    generator = FewStepGenerator(network, 2.5, 0.8, 0.2)
    images = sample_generator(generator, range(5), cond, batch_size=5)
    noises = [seeded_noise(range(5), (1, 8, 8), stream) for stream in range(3)]
    with torch.no_grad():
        assert torch.equal(images, generator(torch.cat(noises, 1), cond))
        assert torch.equal(
            sample_generator(FewStepGenerator(network, 2.5), range(5), cond), generator(noises[0], cond)
        )
    torch.testing.assert_close(images[3:4], sample_generator(generator, [3], cond[3:4]), rtol=0, atol=1e-5)


def test_steps_are_spaced_as_published() -> None:
    """DMD2's four steps of SDXL (Yin et al. 2024), even times of a flow, and EDM's grid."""
    assert DDPM.linear().step_times(999.0, 4) == [999, 749, 499, 249]
    assert Flow().step_times(1.0, 4) == [1, 0.75, 0.5, 0.25]
    # Karras et al. 2022, eq. 5, rho = 7, in quarters from 80^(1/7) = 1.8701223 to 0.002^(1/7) = 0.4115597.
    assert EDM().step_times(80.0, 4) == pytest.approx([80.0, 17.527832, 2.515219, 0.169753], rel=1e-5)
    network = MLP(MLPConfig(2), DDPM.linear())
    levels = network.student_noise_levels(network.schedule.sigma(torch.tensor(999.0)).item() * 1e6, 4)
    assert [entry.t for entry in network.entry_points(levels)] == pytest.approx([999, 749, 499, 249])


CONFIG: dict[str, Any] = {
    "data": {"name": "digits"},
    "steps": 6,
    "batch_size": 4,
    "generator": {"init_noise_to_signal": 2.5, "steps": 3, "further_noise_to_signal": [1.0, 0.3]},
    "fake": {"updates": 2},
    "objective": {"name": "distribution_matching", "divergence": "jensen_shannon"},
    "discriminator": {"reads": "fake", "depths": ["4"], "width": 8},
    "ratio": {"bins": 2},
    "terms": [{"name": "gan", "weight": 0.1}],
    "checkpoint_every": 3,
    "monitor_images": 8,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a student of three steps, with two checkpoints."""
    root = tmp_path_factory.mktemp("steps")
    save_random_teacher(root / "teacher", dropout=0.1)
    return train_run(write_run(root, **CONFIG))


def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(run: Path) -> None:
    again = run.with_name("again")
    shutil.copytree(run, again)
    shutil.rmtree(checkpoints(again)[-1])
    shutil.rmtree(again / "export")
    train_run(run.with_name("run.yaml"), f"--run_dir={again}")
    for file in sorted(checkpoints(run)[-1].glob("*.safetensors")):
        mine, theirs = load_file(file), load_file(checkpoints(again)[-1] / file.name)
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items()), file.name


def test_run_checkpoint_export_and_pipeline_make_the_same_images(run: Path) -> None:
    generators = [distill.load_generator(path) for path in (run, run / "export", checkpoints(run)[-1])]
    assert [generator.noise_to_signal for generator in generators] == [(2.5, 1.0, 0.3)] * 3
    images = [sample_generator(generator, range(3), balanced_labels(3, 10)) for generator in generators]
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    pipe = DiffusionPipeline.from_pretrained(run / "export", trust_remote_code=True)
    z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        ours = (generators[0](z, Condition(torch.tensor([7, 8]))) / 2 + 0.5).clamp(0, 1)
    for steps in ({}, {"num_inference_steps": 3}):
        made = pipe(
            class_labels=[7, 8], generator=torch.Generator().manual_seed(4), output_type="pt", **steps
        ).images
        assert torch.equal(made, ours)
    with pytest.raises(ValueError, match="num_inference_steps is 1; expected 3"):
        pipe(class_labels=[7], num_inference_steps=1)


def test_three_evaluations_are_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample(["--run", str(run), "--n", "2", "--out", str(tmp_path / "samples"), "--device", "cpu"])
    assert "2 images, 3 network evaluations each, are in" in capsys.readouterr().out
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["evaluations"] == 3
    evaluate(["--run", str(run), "--n", "8", "--no-teacher"])
    assert "ms an image, 3 evaluations, batches of 256" in capsys.readouterr().out
    assert json.loads((run / "eval.json").read_text())["sampling"]["student_evaluations"] == 3
    page = write_report(run).read_text()
    assert "into a student that makes one in 3 network evaluations." in page
    assert '<data value="3">3</data>' in page
    card = (run / "export" / "README.md").read_text()
    assert "Makes each image in 3 network evaluations." in card
    assert "| | student, 3 network evaluations | teacher |" in card


def test_three_evaluations_are_reported_under_a_protocol(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--n", "80", "--features", str(tmp_path / "features"), "--device", "cpu"]
    evaluate(["fid", "--run", str(run), "--bootstrap", "0", *store])
    assert "n = 80, 3 evaluations an image, first seed 0" in capsys.readouterr().out
    evaluate(["sweep", "--run", str(run), *store])
    assert "fd-pixel, 80 images of each checkpoint, 3 evaluations an image" in capsys.readouterr().out


def test_entry_levels_are_part_of_the_identity_of_features() -> None:
    network = random_unet()
    one, other, same = (
        NetworkImages(FewStepGenerator(network, *levels), 4).describe()
        for levels in ((2.5, 1.0), (2.5, 0.3), (2.5, 1.0))
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--generator.steps", "9"], "generator.steps: expected less than or equal to 8; found 9"),
        (
            ["--generator.steps", "2"],
            "generator: further_noise_to_signal: holds 2 levels; "
            "expected 1, one for each step after the first",
        ),
        (
            ["--generator.further_noise_to_signal", "[0.3, 1]"],
            "generator: further_noise_to_signal: expected levels that fall from init_noise_to_signal, 2.5, "
            "and stay above 0",
        ),
        (
            ["--generator.further_noise_to_signal", "[3, 1]"],
            "expected levels that fall from init_noise_to_signal, 2.5, and stay above 0",
        ),
        (
            ["--generator.further_noise_to_signal", "[1, 0]"],
            "expected levels that fall from init_noise_to_signal, 2.5, and stay above 0",
        ),
        (
            ["--terms", "[{name: regression, weight: 1}]", "--teacher_samples", "{path: x, count: 9}"],
            "terms: regression pairs an image with one noise, and 3 steps take as many; "
            "expected generator.steps: 1, or regression's step: 1",
        ),
        (
            [
                "--terms=[{name: regression, weight: 1, step: 1}]",
                "--teacher_samples={path: x, count: 9}",
                "--generator.steps=1",
                "--generator.further_noise_to_signal=[]",
            ],
            "terms: regression's step: 1 leaves the objective no step of generator.steps: 1; "
            "expected 2 or more, or step: null",
        ),
        (
            [
                "--terms=[{name: regression, weight: 1, step: 1}]",
                "--teacher_samples={path: x, count: 9, anchor: 19}",
            ],
            "teacher_samples: anchor: is 19; expected at most the sampler's steps, 18",
        ),
        (
            ["--discriminator={real: teacher}", "--teacher_samples={path: x, count: 9, anchor: 4}"],
            "teacher_samples.anchor: makes targets of a first step, not images; expected null, "
            "or a regression term with step: 1, and real: data everywhere",
        ),
        (
            [
                "--terms=[{name: regression, weight: 1, step: 1},"
                "{name: representation, weight: 1, real: teacher}]",
                "--teacher_samples={path: x, count: 9, anchor: 4}",
            ],
            "teacher_samples.anchor: makes targets of a first step, not images; expected null, "
            "or a regression term with step: 1, and real: data everywhere",
        ),
    ],
)
def test_settings_that_make_no_steps_are_refused_in_one_line(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    teacher = {"name": "native", "path": "assets/digits-teacher"}
    file = write_run(tmp_path, **CONFIG, teacher=teacher)
    with pytest.raises(UserError) as error:
        read_config(file, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_levels_beyond_the_end_of_a_schedule_are_refused() -> None:
    network = MLP(MLPConfig(2), DDPM.linear())
    message = (
        r"^generator\.further_noise_to_signal: 300 is entered at t = 999 and the step before it at 999; "
        r"expected a lower level$"
    )
    with pytest.raises(UserError, match=message):
        FewStepGenerator(network, 400.0, 300.0)


EXACT = {
    "task": "distill",
    "teacher": {
        "name": "gaussian_mixture",
        "components": [{"mean": [-2.0], "std": 0.5}, {"mean": [2.0], "std": 0.5}],
    },
    "steps": 2,
    "batch_size": 8,
    "generator": {"network": {"name": "mlp", "width": 8, "blocks": 1}, "steps": 2},
    "fake": {"network": {"name": "mlp", "width": 8, "blocks": 1}},
    "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
    "device": "cpu",
}


def test_exact_distributions_are_of_students_of_one_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learned fake score learns from several steps; an exact one and an affine student are refused."""
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**EXACT, "run_dir": str(tmp_path / "run")}))
    train([str(file)])
    evaluate(["--run", str(tmp_path / "run"), "--n", "64"])
    assert "divergences are known only for one-step students" in capsys.readouterr().out
    assert sum(
        json.loads((tmp_path / "run" / "eval.json").read_text())["student"]["mode_shares"]
    ) == pytest.approx(1)
    exact = (
        r"^fake\.network: the student takes 2 steps; "
        r"expected 1, since only then the distribution is known exactly$"
    )
    with pytest.raises(UserError, match=exact):
        train([str(file), "--run_dir", str(tmp_path / "exact"), "--fake.network", "{name: exact}"])
    with pytest.raises(UserError, match=r"^generator\.steps: is 2; expected 1 for affine$"):
        train([str(file), "--run_dir", str(tmp_path / "affine"), "--generator.network", "{name: affine}"])
    assert not (tmp_path / "exact").exists()
    assert not (tmp_path / "affine").exists()
