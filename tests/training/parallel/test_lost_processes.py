"""A process that dies or hangs ends the others in one line; signals of schedulers save the run."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from distill.networks.folder import checkpoints
from distill.training.parallel.ending import lost_processes
from distill.training.parallel.watchdog import ROOT as SOURCE
from distill.training.parallel.watchdog import describe_stuck, place_of
from tests.helpers.launched_runs import error_lines, training, workers
from tests.helpers.runs import ENVIRONMENT, train_command, write_run

CONTINUES = r"; the same command continues from checkpoints/step-0000\d{4}"


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """The configuration of a run that does not end by itself, with a checkpoint after each step."""
    return write_run(tmp_path, steps=100_000, checkpoint_every=1, sample_every=100_000, process_timeout=5)


@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_the_other_in_one_line(endless: Path, killed: int) -> None:
    with training(endless) as launcher:
        os.kill(workers(launcher)[killed], signal.SIGKILL)
        errors = launcher.communicate(timeout=120)[1]
    (line,) = error_lines(errors)
    died = rf"error: process {1 - killed} of 2: another process died \([\w ]+\)"
    assert re.fullmatch(died + CONTINUES, line), line
    assert "train.py" not in errors.replace("train.py FAILED", "")  # no traceback of the program


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["none", "full"])
def test_a_process_that_hangs_ends_the_other_in_one_line(endless: Path, strategy: str) -> None:
    with training(endless, f"--sharding.strategy={strategy}") as launcher:
        stopped = workers(launcher)
        os.kill(stopped[1], signal.SIGSTOP)
        while 0 in workers(launcher):  # it ends itself
            time.sleep(0.1)
        os.kill(stopped[1], signal.SIGKILL)  # the launcher would do so after 30 s
        errors = launcher.communicate(timeout=120)[1]
    (line,) = error_lines(errors)
    silent = r"error: process 1 of 2 answered no more after step \d+; "
    waited = r"the others waited \d+ s \(process_timeout\)"
    assert re.fullmatch(silent + waited + CONTINUES, line), line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "process", "line"),
    [
        (
            "hang",
            1,
            r"process 1 of 2 stood still after step 2 for \d+ s, in distill/training/trainer.py:\d+; "
            r"the others waited \d+ s \(process_timeout\)" + CONTINUES,
        ),
        ("fail", 0, r"data: is not there; expected images"),
        ("fail", 1, r"process 1 of 2: data: is not there; expected images"),
    ],
)
def test_the_process_that_fails_is_the_one_that_is_heard(
    endless: Path, how: str, process: int, line: str
) -> None:
    launcher = train_command(endless, processes=2)
    place = launcher.index("train.py")
    command = [*launcher[:place], "-m", "tests.helpers.failing_process", how, str(process), str(endless)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=240)
    (found,) = error_lines(done.stderr)
    assert re.fullmatch(f"error: {line}", found), found
    assert done.returncode == 1
    assert ("exitcode  : 2" in done.stderr) == (how == "fail")


@pytest.mark.slow
def test_a_process_that_cannot_obey_its_launcher_says_whom_it_waits_for(tmp_path: Path) -> None:
    """The launcher ends all with SIGTERM while a process waits for one that hangs."""
    file = write_run(tmp_path, steps=100_000, checkpoint_every=100_000, sample_every=100_000)
    with training(file) as launcher:
        os.kill(workers(launcher)[1], signal.SIGSTOP)
        time.sleep(3)
        launcher.terminate()
        errors = launcher.communicate(timeout=120)[1]
    (line,) = error_lines(errors)
    silent = r"error: process 1 of 2 answered no more after step \d+; "
    waited = r"the others waited \d+ s \(SIGTERM came meanwhile\)"
    anew = "; there is no checkpoint yet, and the same command starts anew"
    assert re.fullmatch(silent + waited + anew, line), line


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_run_saves_it(endless: Path, number: signal.Signals) -> None:
    """The launcher forwards SIGTERM, so that processes get it twice. It is not asked to forward SIGUSR1."""
    with training(endless, "--checkpoint_every=100000") as launcher:
        targets = [*workers(launcher).values()]
        for process in targets if number == signal.SIGUSR1 else [*targets, launcher.pid]:
            os.kill(process, number)
        output, errors = launcher.communicate(timeout=120)
    assert f"{number.name}: saved at step" in output, errors
    assert error_lines(errors) == []
    if number == signal.SIGUSR1:
        assert "exitcode  : 138" in errors
    (checkpoint,) = checkpoints(endless.parent / "run")
    assert f"saved at step {int(checkpoint.name.removeprefix('step-'))};" in output


def note(step: int, place: str | None = None, activity: str | None = "training") -> dict[str, object]:
    return {"number": 3, "step": step, "activity": activity, "idle": 61.4, "place": place}


@pytest.mark.parametrize(
    ("notes", "silent", "expected"),
    [
        (
            [note(41), note(40), None, note(40)],
            [1, 2, 3],
            "processes 1-3 of 4 answered no more after step 40; the others waited 60 s (w)",
        ),
        (
            [note(42), note(41, "distill/data/images.py:9"), note(42)],
            [],
            "process 1 of 3 stood still after step 41 for 61 s, in distill/data/images.py:9; "
            "the others waited 60 s (w)",
        ),
        (
            [note(42, activity="measuring", place="eval/features/sfid.py:7"), note(42)],
            [],
            "process 0 of 2 stood still after step 42 (measuring) for 61 s, in eval/features/sfid.py:7; "
            "the others waited 60 s (w)",
        ),
        (
            [note(42, activity="saving"), note(42)],
            [],
            "all 2 processes stood still after step 42 (saving) for 60 s (w)",
        ),
        (
            [note(7), note(0, activity=None), note(0, activity=None), note(7), note(0, activity=None)],
            [],
            "processes 1-2, 4 of 5 stood still after step 0 (not training yet) for 61 s; "
            "the others waited 60 s (w)",
        ),
    ],
)
def test_the_processes_that_others_wait_for_are_named(
    notes: list[dict[str, object] | None], silent: list[int], expected: str
) -> None:
    assert describe_stuck(notes, silent, "60 s (w)") == expected


def test_the_place_of_a_thread_is_the_innermost_line_of_this_program() -> None:
    source = "def f(g):\n    return g()\n"

    def frame_in(*files: str) -> FrameType:
        """Return the frame of the last of functions that call each other and stand in these files."""
        call: Callable[[], FrameType] = functools.partial(sys._getframe, 0)
        for file in reversed(files):
            scope: dict[str, Any] = {}
            exec(compile(source, file, "exec"), scope)
            call = functools.partial(scope["f"], call)
        return call()

    ours, torchs = f"{SOURCE}/distill/data/images.py", "/x/torch/distributed/distributed_c10d.py"
    assert place_of(frame_in(ours, "/x/torch/nn/functional.py")) == "distill/data/images.py:2"
    assert place_of(frame_in(ours, torchs)) is None
    assert place_of(frame_in(ours, f"{SOURCE}/distill/training/parallel/buckets.py")) is None
    assert place_of(frame_in("/x/other.py")) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[gloo/pair.cc:1] Connection closed by peer [::1]:9"), "another process died (Conn"),
        (RuntimeError("[gloo/buf.cc:7] Timed out waiting 5000ms for recv"), "another process did not answer"),
        (RuntimeError("The size of tensor a (2) must match"), None),
        (ValueError("Connection closed by peer"), None),
    ],
)
def test_errors_of_a_lost_process_are_told_from_others(error: Exception, expected: str | None) -> None:
    found = lost_processes(error, 5.0)
    assert found is None if expected is None else found is not None and found.startswith(expected)


def test_an_error_of_nccl_is_told_by_its_last_line() -> None:
    from torch.distributed import DistBackendError

    error = DistBackendError("NCCL error in: x.cpp:1, invalid usage\nLast error:\nDuplicate GPU detected")
    assert lost_processes(error, 5.0) == "the processes cannot communicate (Duplicate GPU detected)"
