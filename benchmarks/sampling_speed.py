"""How many times faster a one-step student samples than its teacher, in turns that rotate, the student twice as a control, on one thread.

`OMP_NUM_THREADS=1 python benchmarks/sampling_speed.py runs/demo` writes `benchmarks/results/sampling_speed.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import distill  # noqa: E402
from benchmarks.rotation import kernels, ratio, run_without_overrides, take_turns  # noqa: E402
from distill.diffusion.samplers import Heun  # noqa: E402
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher  # noqa: E402
from distill.storage.files import write_json  # noqa: E402
from distill.storage.provenance import commit, machine  # noqa: E402
from distill.training.config import read_run  # noqa: E402

IMAGES, BATCH, ROUNDS = 1024, 256, 7


def main() -> None:
    run_without_overrides()
    torch.set_num_threads(1)
    run = Path(sys.argv[1])
    student, teacher = distill.load_generator(run), distill.load_teacher(read_run(run).teacher).eval()
    labels, sampler = balanced_labels(IMAGES, teacher.label_count), Heun()

    def sample_student() -> None:
        sample_generator(student, range(IMAGES), labels, BATCH)

    def sample_its_teacher() -> None:
        sample_teacher(teacher, range(IMAGES), labels, sampler, BATCH)

    times = take_turns(
        {"student": sample_student, "teacher": sample_its_teacher, "student again": sample_student}, ROUNDS
    )
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
    write_json(ROOT / "benchmarks" / "results" / "sampling_speed.json", results)
    print(results["teacher over student"], results["control, student again over student"])


if __name__ == "__main__":
    main()
