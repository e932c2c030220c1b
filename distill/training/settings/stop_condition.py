"""Conditions that stop a run when a logged value passes a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Settings

MONITOR = "monitor/"
MEASURED = (MONITOR, "ema/")
"""Beginnings of the names of measured values: of the best average, and of each of several."""
STOPPED = 3
"""Exit code of a run that a condition stopped, saved and exported, before its last step."""


class StopCondition(Settings):
    """Stop the run, saved and exported, when a value in stats.jsonl is beyond a bound."""

    measure: str = Field(min_length=1)
    """Name of the value in stats.jsonl, such as monitor/fd_pixel, score_gap or reward/pickscore."""
    above: float | None = None
    """Stop when the value is above this, or not finite. null sets no upper bound."""
    below: float | None = None
    """Stop when the value is below this, or not finite. null sets no lower bound."""
    start_step: int = Field(0, ge=0)
    """First step at which the condition is checked. From then on stats.jsonl must have the value: every
    `log_every` steps, or at each measurement if it is measured."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> StopCondition:
        if self.above is None and self.below is None:
            raise ValueError("expected above or below, or both")
        if self.above is not None and self.below is not None and self.above < self.below:
            raise ValueError(f"above: is {self.above:g}; expected at least below, {self.below:g}")
        return self

    def violation(self, line: Mapping[str, float]) -> str | None:
        """Describe what is beyond a bound in a line of stats.jsonl.

        Return None if nothing is, the line does not have the value, or it comes before `start_step`.
        """
        value = line.get(self.measure)
        if value is None or line.get("step", 0) < self.start_step:
            return None
        if self.above is not None and not value <= self.above:  # true for nan
            return f"{self.measure} is {value:.4g}; expected at most {self.above:g}"
        if self.below is not None and not value >= self.below:
            return f"{self.measure} is {value:.4g}; expected at least {self.below:g}"
        return None

    def check(self, line: Mapping[str, float], is_detailed: bool) -> str | None:
        """Return the violation in a line of stats.jsonl, which must have the value from `start_step` on.

        Measured values must be in lines with a measurement, and all others in detailed lines, those of every
        `log_every` steps.
        """
        if self._is_missing(line, is_detailed):
            hint = did_you_mean(self.measure, line)
            raise UserError(
                f"stop_when: step {line['step']:g} has no '{self.measure}'{hint}; "
                "a value that is first logged later needs a start_step"
            )
        return self.violation(line)

    def _is_missing(self, line: Mapping[str, float], is_detailed: bool) -> bool:
        if self.measure in line or line["step"] < self.start_step:
            return False
        if self.measure.startswith(MEASURED):
            return any(key.startswith(MONITOR) for key in line)
        return is_detailed


def check_measured(conditions: Sequence[StopCondition], has_monitor: bool) -> None:
    """Refuse conditions on measurements that nothing makes."""
    for condition in conditions:
        if not has_monitor and condition.measure.startswith(MONITOR):
            raise UserError(
                f"stop_when: nothing measures '{condition.measure}' in this run; "
                "expected data or monitor_reference, and a number as monitor_every"
            )
