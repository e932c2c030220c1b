"""Whose images are judged, as it was asked for on the command line."""

from __future__ import annotations

import dataclasses

from distill.config.errors import UserError, did_you_mean

KINDS = ("run", "teacher", "pipeline", "images")
OWN_TEACHER = "teacher"
"""`--against teacher`: the teacher of the run that `--run` names."""


@dataclasses.dataclass(frozen=True)
class SubjectSpec:
    """One of `KINDS` and its path, by which flag; `own` for the teacher of a run at this path; settings of a teacher's sampler or of a pipeline."""

    kind: str
    path: str
    flag: str
    own: bool = False
    steps: int | None = None
    guidance: float | None = None


def parse_against(text: str, run: str | None, steps: int | None, guidance: float | None) -> SubjectSpec:
    """The second subject: `KIND:PATH`, or `teacher` for that of the run. Raises UserError for anything else."""
    if text == OWN_TEACHER:
        if run is None:
            raise UserError("--against teacher: goes with --run, whose teacher it is; expected teacher:PATH")
        asked = SubjectSpec("teacher", run, "--against", True, steps, guidance)
    else:
        kind, colon, path = text.partition(":")
        if not colon or not path:
            raise UserError(
                f"--against {text}: expected {', '.join(f'{name}:PATH' for name in KINDS)}, or teacher for the run's own"
            )
        if kind not in KINDS:
            raise UserError(f"--against {text}: '{kind}' is no kind of subject{did_you_mean(kind, KINDS)}")
        asked = SubjectSpec(kind, path, "--against", False, steps, guidance)
    refuse_settings(asked, "--against-steps", "--against-guidance")
    return asked


def refuse_settings(asked: SubjectSpec, steps: str = "--steps", guidance: str = "--guidance") -> None:
    """Raises UserError where settings of a sampler go with a subject that has none."""
    for flag, value in ((steps, asked.steps), (guidance, asked.guidance)):
        if value is not None and asked.kind not in ("teacher", "pipeline"):
            raise UserError(f"{flag}: goes with a teacher or a pipeline only")
