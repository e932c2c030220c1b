"""Memory of the processes that make the first steps of a run.

`python -m tests.helpers.peak_memory FOLDER CONFIG [--key value ...]` writes the largest resident set of each
process, in bytes, to `FOLDER/INDEX`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from tests.helpers.runs import ENVIRONMENT, read_run, train_command

STEPS = 2
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
"""Setting of glibc by which tensors above a mebibyte go back to the system when they are freed. Its heap
keeps what several threads free in turn, and the resident set would count that."""


def peak_memory(folder: Path, file: Path, *overrides: str, processes: int = 1) -> list[int]:
    """Make steps in processes of their own, and return the largest resident set of each in bytes."""
    folder.mkdir()
    program = ("-m", __name__, str(folder))
    command = train_command(file, *overrides, processes=processes, program=program)
    environment = {**ENVIRONMENT, **ALLOCATOR}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return [int((folder / str(index)).read_text()) for index in range(processes)]


def main() -> None:
    from torch import distributed

    from distill.training.distillation.task import Distillation
    from distill.training.launch import build_processes
    from distill.training.logging import Clock

    folder, file, *overrides = sys.argv[1:]
    config = read_run(Path(file), *overrides)
    processes = build_processes(config)
    task = Distillation(config, processes, Clock())
    task.start(0)
    for step in range(STEPS):
        task.update(step, detailed=False)
    processes.wait()
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (Path(folder) / str(processes.index)).write_text(str(1024 * kibibytes))
    processes.wait()
    if processes.count > 1:  # an open group may abort Python
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
