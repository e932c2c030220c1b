"""Two processes over gloo learn what one process learns."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from distill.networks.folder import checkpoints
from tests.helpers.runs import checkpoint_names, logged_steps, read_lines, train_in_processes, write_run


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3])
def test_two_processes_learn_what_one_does(tmp_path: Path, steps: int) -> None:
    """The student takes one step, or three, which the regression term does not know."""
    terms = [{"name": "gan", "weight": 0.1}]
    losses = ["objective", "fake", "gan", "discriminator", "r1"]
    if steps == 1:
        terms.append({"name": "regression", "weight": 0.2})
        losses.append("regression")
    file = write_run(
        tmp_path,
        data={"name": "digits"},
        steps=3,
        batch_size=6,
        generator={"steps": steps},
        objective={"name": "expanded_divergence", "divergence": "jensen_shannon"},
        discriminator={
            "depths": ["4"],
            "width": 8,
            "real": "teacher",
            "r1": {"weight": 0.1, "at": "features"},
        },
        teacher_samples={"path": "set below", "count": 9, "sampler": {"steps": 2}},
        ratio={"bins": 2},
        terms=terms,
        monitor_images=8,
    )
    runs = []
    for processes in (1, 2):
        run = tmp_path / f"processes-{processes}"
        samples = f"--teacher_samples.path={run}-samples"
        done = train_in_processes(file, f"--run_dir={run}", samples, processes=processes)
        assert done.returncode == 0, done.stderr
        runs.append(run)
    one, two = (read_lines(run) for run in runs)
    assert [line["step"] for line in two] == [1, 2, 3]
    norms = [f"grad_norm/{network}" for network in ("generator", "fake", "discriminator")]
    for line_of_one, line_of_two in zip(one, two, strict=True):
        for name in (*(f"loss/{loss}" for loss in losses), *norms, "ratio/scale"):
            assert line_of_one[name] == pytest.approx(line_of_two[name], rel=2e-3), name
    for run in runs:
        counts = load_file(checkpoints(run)[-1] / "calibration.safetensors")
        for kind in ("real", "student"):
            assert counts[f"{kind}.total"][1].sum().item() == pytest.approx(6 * (1 + 0.99 + 0.99**2))


@pytest.mark.slow
def test_two_processes_stop_together_at_what_they_measure(tmp_path: Path) -> None:
    """Each measures a part of the images. Both stop at the same step, and the run is saved and exported."""
    file = write_run(
        tmp_path,
        data={"name": "digits"},
        steps=5,
        batch_size=4,
        stop_when=[{"measure": "monitor/fd_pixel", "above": 0, "start_step": 2}],
        monitor_every=1,
        monitor_images=8,
    )
    done = train_in_processes(file, processes=2)
    # The launcher ends the later process and exits with a code of its own.
    assert "exitcode  : 3" in done.stderr, done.stderr
    assert done.stdout.count("stopped at step 2 by stop_when: monitor/fd_pixel is ") == 1
    run = tmp_path / "run"
    assert checkpoint_names(run) == ["step-00000002"]
    assert logged_steps(run) == [1, 2]
    assert (run / "export" / "model.safetensors").is_file()
