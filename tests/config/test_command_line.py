"""Commands end with one line on stderr and an exit code, not with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from distill.config import command_line
from distill.config.command_line import as_called, run_command, words_after_python
from distill.config.errors import TrainingError, UserError


def exit_code(error: Exception) -> int | str | None:
    """Run a command that raises an error, and return its exit code."""

    def main(arguments: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(main, on_shortage="lower --batch-size")
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (UserError("--n 0: expected at least 1"), "--n 0: expected at least 1", 2),
        (TrainingError("step 7: loss 'gan' is inf"), "step 7: loss 'gan' is inf", 1),
        (UserError("two\n  lines"), "two lines", 2),
        (MemoryError(), "out of memory (the machine has no more); lower --batch-size", 1),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. "
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            ),
            "out of memory ([enforce fail at alloc_cpu.cpp:118] err == 0); lower --batch-size",
            1,
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "out of memory (CUDA out of memory); lower --batch-size",
            1,
        ),
    ],
)
def test_an_expected_error_is_one_line_with_an_exit_code(
    error: Exception, expected: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(error) == code
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_a_later_process_waits_before_it_reports_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first process usually says the same, and the launcher then ends the others."""
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    waits: list[float] = []
    monkeypatch.setattr(command_line.time, "sleep", waits.append)
    assert exit_code(UserError("--n 0: expected at least 1")) == 2
    assert capsys.readouterr().err == "error: process 3 of 4: --n 0: expected at least 1\n"
    assert waits == [12.0]
    monkeypatch.setenv("LOCAL_RANK", "0")  # the first on another machine speaks for those there
    assert exit_code(UserError("x")) == 2
    monkeypatch.setenv("RANK", "0")
    assert exit_code(UserError("x")) == 2
    assert waits == [12.0, 10.0]
    assert capsys.readouterr().err == "error: process 3 of 4: x\nerror: x\n"


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), BrokenPipeError("the tracker's pipe")])
def test_an_error_of_another_kind_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        exit_code(error)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_what_the_command_returns(returned: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(lambda arguments: returned)
    assert (ended.value.code or 0) == code


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        ("train.py --help", ""),
        ("train.py --help", "1"),
        ("sample.py --help", ""),
        ("-m eval --help", ""),
        ("-m eval fid --help", ""),
        ("-m distill", ""),
        ("-m distill export --help", ""),
    ],
)
def test_a_reader_that_stops_early_ends_a_command_quietly(command: str, unbuffered: str) -> None:
    """stdout is a pipe that nobody reads, as after `| head`; it is written at the end, or at once."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, *command.split()],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        timeout=120,
    )
    os.close(write_end)
    assert done.stderr == ""
    assert done.returncode == 141  # 128 + SIGPIPE


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["configs/absent.yaml"], 2)])
def test_a_closed_stdout_changes_no_exit_code(arguments: list[str], code: int) -> None:
    command = f'"{sys.executable}" train.py {" ".join(arguments)} >&-'
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "called", "repeated"),
    [
        ("/home/me/.venv/bin/distill", "distill", ["-m", "distill", "train", "x"]),
        ("distill.exe", "distill", ["-m", "distill", "train", "x"]),
        ("/src/distill/__main__.py", "python -m distill", ["-m", "distill", "train", "x"]),
        ("train.py", None, ["train.py", "train", "x"]),
        ("/src/distill/eval/__main__.py", None, ["/src/distill/eval/__main__.py", "train", "x"]),
    ],
)
def test_commands_are_named_and_repeated_as_the_process_was_called(
    script: str, called: str | None, repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "train", "x"])
    text = "python train.py X, python sample.py, python -m eval fid, python -m distill models"
    expected = f"{called} train X, {called} sample, {called} eval fid, {called} models"
    assert as_called(text) == (text if called is None else expected)
    assert words_after_python() == repeated
