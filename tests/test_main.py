"""`distill`: it lists its commands, runs the one that is named, and refuses others in one line."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import __version__
from distill.__main__ import COMMANDS, main
from distill.config.command_line import run_command
from distill.config.errors import UserError

NAMES = [
    "train",
    "sample",
    "eval",
    "report",
    "export",
    "configs",
    "demo",
    "models",
    "precompute",
    "convert",
    "train-classifier",
    "train-clip",
    "train-word-match",
]
OWN_PROGRAMS = {
    "train": "python train.py",
    "sample": "python sample.py",
    "eval": "python -m eval",
}
"""Commands that a checkout has by other names, which their help has unless it is called by a third."""


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[2:-2]]
    assert lines[0] == "usage: python -m distill COMMAND ..."
    assert listed == NAMES == list(COMMANDS)


def test_it_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"distill {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command == "train":
        assert main([command, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0
    called = OWN_PROGRAMS.get(command, f"python -m distill {command}")
    assert capsys.readouterr().out.startswith(f"usage: {called} ")


def test_an_unknown_command_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"^'exprot': no command of python -m distill; did you mean 'export'\?$"
    ):
        main(["exprot", "--run", "x"])


def test_a_mistake_takes_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distill", "publish"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    expected = "error: 'publish': no command of python -m distill; expected one of: "
    assert done.stderr == f"{expected}{', '.join(sorted(NAMES))}\n"


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (["-m", "distill", "train"], "usage: python -m distill train CONFIG [--key value ...]"),
        (["-m", "distill", "eval", "fid"], "usage: python -m distill eval fid [-h]"),
        (["-m", "eval", "fid"], "usage: python -m eval fid [-h]"),
        (["sample.py"], "usage: python sample.py [-h]"),
        (["train.py"], "usage: python train.py CONFIG [--key value ...]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_names_the_command_as_it_was_called(command: list[str], usage: str) -> None:
    done = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(usage)


def test_messages_name_commands_as_the_process_was_called() -> None:
    """`python -m eval` is no command of an installed package."""
    command = [sys.executable, "-m", "distill", "eval", "fud"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "error: 'fud': no command of python -m distill eval; did you mean 'fid'?\n"


@pytest.mark.parametrize(
    ("package", "command", "message"),
    [
        ("torch", "train digits/dmd2 --run_dir none", "torch is not installed: pip install torch"),
        ("torch", "sample --run none", "torch is not installed: pip install torch"),
        ("torch", "eval --run none", "torch is not installed: pip install torch"),
        ("pydantic", "train --help", "pydantic is not installed: pip install pydantic"),
        ("yaml", "report none", "yaml is not installed: pip install pyyaml"),
    ],
)
def test_a_package_that_is_not_installed_is_named_in_one_line(
    package: str, command: str, message: str, tmp_path: Path
) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None; sys.argv = ['distill', *'{command}'.split()]; "
        "from distill.__main__ import run_as; run_as()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_an_installed_package_lacks_keeps_its_traceback() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"torch\.none"):
        run_command(lambda arguments: importlib.import_module("torch.none"))
