"""The subject whose images are scored, as the command line names it."""

from __future__ import annotations

import dataclasses

from distill.config.errors import UserError, did_you_mean

KINDS = ("run", "teacher", "pipeline", "images")
OWN_TEACHER = "teacher"
"""`--against teacher` names the teacher of the run that `--run` names."""


@dataclasses.dataclass(frozen=True)
class SubjectSpec:
    """The kind and path of a subject, and the settings of its sampler."""

    kind: str
    """One of `KINDS`."""
    path: str
    flag: str
    """The flag that named it, for messages."""
    own: bool = False
    """The subject is the teacher of the run at `path`."""
    steps: int | None = None
    """Steps of a teacher's sampler or of a pipeline; None for the default."""
    guidance: float | None = None
    """Guidance scale of a teacher's sampler or of a pipeline; None for the default."""


def parse_against(text: str, run: str | None, steps: int | None, guidance: float | None) -> SubjectSpec:
    """Parse the second subject: `KIND:PATH`, or `teacher` for the teacher of `run`."""
    if text == OWN_TEACHER:
        if run is None:
            raise UserError("--against teacher: goes with --run, whose teacher it is; expected teacher:PATH")
        spec = SubjectSpec("teacher", run, "--against", True, steps, guidance)
    else:
        kind, _, path = text.partition(":")
        if not path:
            expected = ", ".join(f"{name}:PATH" for name in KINDS)
            raise UserError(f"--against {text}: expected {expected}, or teacher for the run's own")
        if kind not in KINDS:
            raise UserError(f"--against {text}: '{kind}' is no kind of subject{did_you_mean(kind, KINDS)}")
        spec = SubjectSpec(kind, path, "--against", False, steps, guidance)
    refuse_settings(spec, "--against-steps", "--against-guidance")
    return spec


def refuse_settings(spec: SubjectSpec, steps: str = "--steps", guidance: str = "--guidance") -> None:
    """Refuse settings of a sampler for a subject that has none; `steps` and `guidance` are their flags."""
    for flag, value in ((steps, spec.steps), (guidance, spec.guidance)):
        if value is not None and spec.kind not in ("teacher", "pipeline"):
            raise UserError(f"{flag}: goes with a teacher or a pipeline only")
