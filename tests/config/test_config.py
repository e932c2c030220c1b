"""Configurations are read as they are written, and refused in one line if they cannot be read."""

from pathlib import Path

import pytest
import yaml

from distill.config.config_file import parse_overrides
from distill.config.errors import UserError
from distill.training.config import read_config, to_yaml
from distill.training.run_folder import open_run_folder
from tests.helpers.alone import ALONE
from tests.helpers.runs import read_run, write_run

SETTINGS = {
    "data": {"name": "digits"},
    "teacher": {"name": "native", "path": "assets/digits-teacher"},
    "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_run(tmp_path, **SETTINGS)


def test_an_override_is_read_as_yaml_would_be(file: Path) -> None:
    overrides = ["--generator.optimizer.lr", "3e-4", "--fake.updates=5"]
    config = read_run(file, *overrides, "--generator.noise_levels", "{name: karras, stop: 0.8}")
    assert config.generator.optimizer.lr == 3e-4
    assert config.fake.updates == 5
    assert config.generator.noise_levels.stop == 0.8


def test_a_resolved_configuration_reads_back_as_itself(file: Path, tmp_path: Path) -> None:
    terms = ["--terms", "[{name: gan, weight: 0.1}]"]
    config = read_config(file, [*terms, "--discriminator.reads", "fake", "--ratio.bins", "4"])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert read_config(again) == config
    assert "  name: gan" in to_yaml(config) or "- name: gan" in to_yaml(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--generator.emma", "1"], "generator: unknown key 'emma'; did you mean 'ema'?"),
        (["--stepps", "1"], "unknown key 'stepps'; did you mean 'steps'?"),
        (["--steps", "ten"], "steps: expected a whole number, such as 10000 or 1e4; found 'ten'"),
        (["--steps", "0"], "steps: expected greater than or equal to 1; found 0"),
        (["--steps", "null"], "steps: expected a whole number, such as 10000 or 1e4; found None"),
        (["--teacher.name", "natve"], "teacher: 'natve' is not in distill/teachers; did you mean 'native'?"),
        (["--teacher.pth", "x"], "teacher: unknown key 'pth'; did you mean 'path'?"),
        (["--task", "distil"], "task: is 'distil'; did you mean 'distill'?"),
        (
            ["--objective.name", "score_machting"],
            "objective.name: is 'score_machting'; did you mean 'score_matching'?",
        ),
        (
            ["--objective.divergence", "forward_k"],
            "objective.divergence: 'forward_k' is not a divergence; did you mean 'forward_kl'?",
        ),
        (
            ["--objective.weighting", "dmdd"],
            "objective.weighting: expected 'score', 'prediction' or 'dmd'; did you mean 'dmd'?; found 'dmdd'",
        ),
        (
            ["--generator.noise_levels", "{name: karras, rho: -1}"],
            "generator.noise_levels.rho: expected greater than 0; found -1",
        ),
        (["--terms", "[{name: gan, weight: 1}]"], "terms: gan needs a discriminator"),
        (
            ["--objective.divergence", "forward_kl"],
            "objective.divergence: needs a density ratio; expected settings under 'ratio'",
        ),
        (["--ratio.bins", "3"], "ratio: needs a discriminator"),
        (
            ["--discriminator", "{}", "--data", "null"],
            "discriminator: needs real images; expected a source under 'data', or real: teacher",
        ),
        (
            ["--discriminator.real", "teacher"],
            "discriminator.real: teacher needs stored samples; expected settings under 'teacher_samples'",
        ),
        (
            ["--terms", "[{name: regression, weight: 1}]"],
            "terms: regression needs the teacher's samples; expected settings under 'teacher_samples'",
        ),
        (
            ["--teacher_samples", "{path: x, count: 9}"],
            "teacher_samples: are used by nothing; "
            "expected discriminator.real: teacher, or a regression term",
        ),
        (
            [
                "--teacher_samples",
                "{path: x, count: 9, sampler: {churn: 1}}",
                "--terms",
                "[{name: regression, weight: 1}]",
            ],
            "teacher_samples.sampler.churn: regression needs the deterministic sampler; expected 0",
        ),
        (
            ["--discriminator.r1", "{weight: 1, at: features, approximate: true}"],
            "discriminator.r1: approximate: moves the image; expected at: image",
        ),
        (
            ["--discriminator", "{}", "--ratio.low", "30"],
            "ratio.low: is 30; expected less than ratio.high, 20",
        ),
        (
            ["--generator.noise_levels", "{name: karras, sigma_min: 5, sigma_max: 4}"],
            "sigma_min: 5 is above sigma_max, 4; expected at most as much",
        ),
        (
            ["--generator.noise_levels", "{name: uniform, start: 0.9, stop: 0.5}"],
            "start: 0.9 is above stop, 0.5; expected at most as much",
        ),
        (
            ["--objective.divergence", "0*forward_kl"],
            "objective.divergence: '0*forward_kl' is 0 everywhere; expected a factor above 0",
        ),
        (
            ["--generator.optimizer.betas", "[0.9, 1.0]"],
            "generator.optimizer.betas.1: expected less than 1; found 1.0",
        ),
        (
            ["--seed", "99999999999999999999"],
            "seed: expected less than 9223372036854775808; found 99999999999999999999",
        ),
        (
            ["--objective", "{name: score_matching, real_data: {alpha: 1, beta: 1}}", "--data", "null"],
            "objective.real_data: needs real images; expected a source under 'data', or real: teacher",
        ),
        (
            ["--objective", "{name: score_matching, real_data: {alpha: 1, beta: 1, real: teacher}}"],
            "objective.real_data.real: teacher needs stored samples; "
            "expected settings under 'teacher_samples'",
        ),
        (
            [
                "--objective",
                "{name: score_matching, real_data: {alpha: 1, beta: 1, real: teacher}}",
                "--discriminator",
                "{}",
            ],
            "objective.real_data.real: is teacher; expected data as discriminator.real",
        ),
        (
            ["--objective", "{name: score_matching, distance: pseudo_huber, real_data: {alpha: 1, beta: 1}}"],
            "real_data: does not go with distance: pseudo_huber; expected l2",
        ),
        (
            [
                "--objective",
                "{name: score_matching, real_data: {alpha: 1, beta: 1}}",
                "--fake.network",
                "{name: sample}",
            ],
            "objective.real_data: is learned by the fake score, and fake.network sample learns nothing",
        ),
        (
            ["--generator.step_inputs", "data"],
            "generator: step_inputs: data noises images for the second and later steps",
        ),
        (
            ["--generator.step_inputs", "teacher", "--generator.steps", "2"],
            "generator.step_inputs: teacher needs stored samples; expected settings under 'teacher_samples'",
        ),
        (
            [
                *("--generator.step_inputs", "data", "--generator.steps", "2"),
                *("--terms", "[{name: regression, step: 1, weight: 1}]"),
                *("--teacher_samples", "{path: x, count: 4, anchor: 3}"),
            ],
            "generator.step_inputs: trains every step on images, and a regression term has the first",
        ),
        (
            ["--generator.step_inputs", "data", "--generator.steps", "2", "--data", "null"],
            "generator.step_inputs: needs real images; expected a source under 'data'",
        ),
        (
            ["--terms", "[{name: representation, weight: 1}]", "--data", "null"],
            "terms: representation needs real images; expected a source under 'data', or real: teacher",
        ),
        (
            ["--terms", "[{name: representation, weight: 1, real: teacher}]"],
            "terms: representation needs stored samples; expected settings under 'teacher_samples'",
        ),
        (
            ["--terms", "[{name: representation, weight: 1}]", "--compile", "step"],
            "compile: step does not go with terms: representation; expected blocks or none",
        ),
        (
            ["--terms", "[{name: representation, weight: 1, bandwidth: 2}]"],
            "terms.0: bandwidth: goes with distance: mmd; expected null",
        ),
        (["--generator.ema", "[0.9, 2]"], "generator.ema.1: expected less than 1; found 2"),
        (["--generator.ema", "[]"], "generator.ema: expected 1 or more; found []"),
        (
            ["--generator.ema", "[[0.9]]"],
            "generator.ema.0: expected a number, such as 0.0001 or 1e-4; found [0.9]",
        ),
        (
            ["--generator.ema", "{half_life: 3}"],
            "generator.ema: unknown key 'half_life'; did you mean 'half_life_images'?",
        ),
        (["--terms.0.weight", "3"], "--terms.0.weight: '0' is not an entry"),
        (["--steps"], "--steps: expected a value after it"),
        (["steps", "3"], "'steps': unexpected argument"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(file: Path, overrides: list[str], message: str) -> None:
    if overrides[0].startswith("--terms.0"):
        write_run(file.parent, **SETTINGS, terms=[])
    with pytest.raises(UserError) as error:
        read_config(file, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_key_is_named(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    del content["teacher"]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="teacher: is missing"):
        read_config(file)


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "is not YAML"), ("- 1", "expected a mapping"), (None, "cannot be read")]
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_overrides_split_at_the_first_equals_sign() -> None:
    assert parse_overrides(["--a=b=c", "--d.e", "1.5", "--f", "[1, 2]"]) == [
        ("a", "b=c"),
        ("d.e", 1.5),
        ("f", [1, 2]),
    ]


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_preset_is_valid_and_says_where_it_comes_from(path: Path) -> None:
    read_config(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Source:" in line for line in header)
    assert any("Measured" in line for line in header)


def test_a_run_without_the_checkpoint_to_resume_leaves_no_folder(file: Path, tmp_path: Path) -> None:
    message = (
        "resume: no is no checkpoint; expected auto, never, or a folder such as checkpoints/step-00001000"
    )
    with pytest.raises(UserError, match=f"^{message}$"):
        open_run_folder(read_config(file, ["--resume", "no"]), ALONE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "is not YAML"), ("", "expected a mapping of settings")]
)
def test_a_damaged_configuration_of_a_run_is_named(
    file: Path, tmp_path: Path, content: str, message: str
) -> None:
    config = read_config(file)
    assert open_run_folder(config, ALONE) is None
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/run/config.yaml: {message}"):
        open_run_folder(config, ALONE)
