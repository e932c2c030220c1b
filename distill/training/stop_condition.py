"""A guard of a run: it stops when something that is logged passes a bound."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Settings

MONITOR = "monitor/"
STOPPED = 3
"""Exit code of a run that a guard stopped: saved and exported, but not at its last step."""


class StopCondition(Settings):
    """Stops a run, saved and exported, with exit code 3, at the first line of stats.jsonl in which a
    measurement is beyond a bound."""

    measure: str = Field(min_length=1)
    """Key of stats.jsonl, such as monitor/fd_pixel, score_gap or reward/pickscore."""
    above: float | None = None
    """Stop when it is above this, or not finite."""
    below: float | None = None
    """Stop when it is below this, or not finite."""
    start_step: int = Field(0, ge=0)
    """Step from which the guard looks; from then on the measurement must be there."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> StopCondition:
        if self.above is None and self.below is None:
            raise ValueError("expected above or below, or both")
        if self.above is not None and self.below is not None and self.above < self.below:
            raise ValueError(f"above: is {self.above:g}; expected at least below, {self.below:g}")
        return self

    def violation(self, line: Mapping[str, float]) -> str | None:
        """What is beyond the bounds in a line of stats.jsonl, in words; None where nothing is, the
        measurement is not there, or it is too early."""
        value = line.get(self.measure) if line.get("step", 0) >= self.start_step else None
        if value is not None and self.above is not None and not value <= self.above:
            return f"{self.measure} is {value:.4g}; expected at most {self.above:g}"
        if value is not None and self.below is not None and not value >= self.below:
            return f"{self.measure} is {value:.4g}; expected at least {self.below:g}"
        return None

    def check(self, line: Mapping[str, float]) -> str | None:
        """The verdict on a line of stats.jsonl. Raises UserError where it should hold the measurement and
        does not; those of the monitor are in the lines of its steps alone."""
        missing = self.measure not in line and line["step"] >= self.start_step
        if missing and (not self.measure.startswith(MONITOR) or any(key.startswith(MONITOR) for key in line)):
            place = (
                f"stop_when: step {line['step']:g} has no '{self.measure}'{did_you_mean(self.measure, line)}"
            )
            raise UserError(f"{place}; what comes later needs a start_step")
        return self.violation(line)
