"""`python -m distill`: it lists its commands, runs the one that is named, and refuses others in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distill.__main__ import COMMANDS, main
from distill.config.errors import UserError


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[2:-3]]
    assert lines[0].startswith("`python -m distill COMMAND`")
    assert (
        listed
        == [
            "report",
            "export",
            "demo",
            "models",
            "precompute",
            "convert",
            "train-classifier",
            "train-clip",
            "train-word-match",
        ]
        == list(COMMANDS)
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m distill {command} ")


def test_an_unknown_command_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"^'exprot': no command of python -m distill; did you mean 'export'\?$"
    ):
        main(["exprot", "--run", "x"])


def test_a_mistake_takes_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distill", "sample"], capture_output=True, text=True, check=False
    )
    expected = "error: 'sample': no command of python -m distill; expected one of: "
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"{expected}convert, demo, export, models, precompute, report, train-classifier, train-clip, "
        "train-word-match\n"
    )
