"""Numbers of a report as text."""

from __future__ import annotations

import math


def short(value: float, digits: int = 3) -> str:
    """Format a number for text and axes: 1 234 567, 0.0412, 3e-5."""
    if abs(value) >= 10 ** (digits - 1) and math.isfinite(value):
        # A narrow no-break space separates thousands: a comma is a decimal sign to half the readers.
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value + 0.0:.{digits}g}".replace("e-0", "e-")  # + 0.0 takes the sign off a zero


def short_count(value: float, _: object = None) -> str:
    """Format a count of steps or images for an axis: 500, 20k, 1.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 1e3:
        return f"{value / 1e3:g}k"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """Format a time in words: 42 s, 38 min, 5 h 07 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
