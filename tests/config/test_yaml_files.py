"""YAML in the forms that people write: each is read as meant, or refused in one line."""

from pathlib import Path

import pytest
import yaml

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError
from distill.config.yaml_files import dump_yaml, parse_yaml
from distill.training.config import read_config, to_yaml

BASE = Path("configs/digits/diff_instruct.yaml").read_text()

SCALARS = {
    "no": "no",
    "off": "off",
    "yes": "yes",
    "true": True,
    "1e3": 1000.0,
    "1e-4": 1e-4,
    "-.5": -0.5,
    "1_000": 1000,
    "010": 10,
    "0x10": 16,
    "1:30": "1:30",
    "2026-01-01": "2026-01-01",
    "~": None,
    "": None,
    "10k": "10k",
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_a_scalar_is_what_it_looks_like(text: str, value: object) -> None:
    found = parse_yaml(f"x: {text}")["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "value", ["no", "1e3", "010", "~", "true", "x: y", "1:30", "2026-01-01", 1e-05, 3, None, True, "é\n"]
)
def test_written_yaml_reads_back_unchanged_here_and_in_pyyaml(value: object) -> None:
    assert (
        parse_yaml(dump_yaml({"x": [value]})) == yaml.safe_load(dump_yaml({"x": [value]})) == {"x": [value]}
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "'a' stands twice, in lines 1 and 3; expected once"),
        ("x: {a: 1, a: 2}", "'a' stands twice, in lines 1 and 1"),
        ("? [a]\n: 1", "line 1: a key is a list or a mapping; expected a name"),
        ("a: b\n\tc: 1", "line 2, column 1: a tab; expected spaces"),
        ("a: [1, 2", "is not YAML (line 1"),
        ("[" * 5000 + "]" * 5000, "is nested more than 100 deep"),
        ("a: *x", "found undefined alias"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_invalid_yaml_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_yaml(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_merged_mapping_may_be_overridden() -> None:
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("saved", [BASE.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + BASE.encode()])
def test_a_file_of_another_system_is_the_same_run(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(saved)
    assert read_config(tmp_path / "run.yaml") == read_config(Path("configs/digits/diff_instruct.yaml"))


WRITTEN = {
    "--precision no": ("precision", "fp32"),
    "--precision bfloat16": ("precision", "bf16"),
    "--trackers tensorboard": ("trackers", ("tensorboard",)),
    "--trackers tensorboard,wandb": ("trackers", ("tensorboard", "wandb")),
    "--steps 1e3": ("steps", 1000),
    "--seed 010": ("seed", 10),
    "--run_dir ~/runs/x": ("run_dir", Path.home() / "runs" / "x"),
    "--run_dir 2026": ("run_dir", Path("2026")),
    "--activation_checkpointing yes": ("activation_checkpointing", True),
    "--stop_when {measure: a, above: 1}": ("stop_when.0.measure", "a"),
    "--generator.optimizer.betas 0.0,0.99": ("generator.optimizer.betas", (0.0, 0.99)),
    "--generator.init_from ~/old": ("generator.init_from", Path.home() / "old"),
    "--teacher.path ~/teacher": ("teacher.path", Path.home() / "teacher"),
}


@pytest.mark.parametrize(("override", "expected"), WRITTEN.items(), ids=WRITTEN)
def test_a_setting_is_understood_as_people_write_it(
    tmp_path: Path, override: str, expected: tuple[str, object]
) -> None:
    (tmp_path / "run.yaml").write_text(BASE)
    value = read_config(tmp_path / "run.yaml", override.split(" ", 1))
    for name in expected[0].split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    assert value == expected[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--steps 10k", "steps: expected a whole number, such as 10000 or 1e4; found '10k'"),
        ("--steps 1.5", "steps: expected a whole number, such as 10000 or 1e4; found 1.5"),
        ("--generator.optimizer.lr 1,5e-4", "expected a number, such as 0.0001 or 1e-4; found '1,5e-4'"),
        ("--precision fp8", "precision: expected 'fp32', 'bf16', 'bf16-true' or 'fp16'; found 'fp8'"),
        ("--micro_batch_size automatic", "micro_batch_size: expected a whole number from 1, auto or null"),
        (
            "--trackers wandbb",
            "trackers.0: expected 'tensorboard', 'wandb' or 'trackio'; did you mean 'wandb'?",
        ),
    ],
)
def test_a_value_that_no_setting_takes_is_refused(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(BASE)
    with pytest.raises(UserError) as error:
        read_config(tmp_path / "run.yaml", override.split())
    assert message in str(error.value)


def test_a_recorded_run_reads_back_unchanged(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(BASE)
    config = read_config(tmp_path / "run.yaml", ["--run_dir", '"1e5"'])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "again.yaml") == config


def test_the_home_folder_is_understood_after_an_equals_sign() -> None:
    parser = ArgumentParser("x", "")
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out=~/x"]).out == Path.home() / "x"
