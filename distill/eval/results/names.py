"""Names of results beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


def distinct_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each file; files that share one have their path behind it."""
    counts = Counter(names.values())
    return {file: name if counts[name] == 1 else f"{name} ({file})" for file, name in names.items()}
