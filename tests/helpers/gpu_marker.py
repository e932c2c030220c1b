"""The marker of tests that need a GPU."""

from itertools import pairwise


def asks_for_gpu(expression: str) -> bool:
    """Tell whether an expression for `pytest -m` names the marker, other than to leave its tests out."""
    words = expression.replace("(", " ").replace(")", " ").split()
    return any(word == "gpu" and before != "not" for before, word in pairwise(["", *words]))
