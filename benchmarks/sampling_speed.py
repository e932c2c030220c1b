"""Compare the sampling time of a one-step student with its teacher's, on one thread.

`OMP_NUM_THREADS=1 python benchmarks/sampling_speed.py runs/demo` writes
benchmarks/results/sampling_speed.json. Student and teacher take turns in an order that rotates, the student
twice as a control.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import distill
from benchmarks.project import RESULTS, argument_parser
from benchmarks.rotation import kernels, ratio, run_without_overrides, take_turns
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine
from distill.training.config import read_run
from distill.training.settings import DistillRun

IMAGES = 1024
BATCH = 256
ROUNDS = 7


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the student's run")
    run: Path = parser.parse_args(arguments).run
    run_without_overrides()
    torch.set_num_threads(1)
    config = read_run(run)
    if not isinstance(config, DistillRun):
        raise SystemExit(f"{run}: trains a teacher; expected the run of a student")
    student = distill.load_generator(run)
    teacher = distill.load_teacher(config.teacher).eval()
    labels = balanced_labels(IMAGES, teacher.label_count)
    sampler = Heun()

    def sample_student() -> None:
        sample_generator(student, range(IMAGES), labels, BATCH)

    def sample_its_teacher() -> None:
        sample_teacher(teacher, range(IMAGES), labels, sampler, BATCH)

    contestants = {"student": sample_student, "teacher": sample_its_teacher, "student again": sample_student}
    times = take_turns(contestants, ROUNDS)
    results = {
        "images": IMAGES,
        "batch": BATCH,
        "rounds": ROUNDS,
        "evaluations of the teacher": sampler.evaluations,
        "teacher over student": ratio(times, "teacher", "student"),
        "control, student again over student": ratio(times, "student again", "student"),
        "seconds": times,
        "kernels": kernels(),
        "torch": torch.__version__,
        "machine": machine(),
        "commit": commit(),
    }
    write_json(RESULTS / "sampling_speed.json", results)
    print(results["teacher over student"], results["control, student again over student"])


if __name__ == "__main__":
    main(sys.argv[1:])
