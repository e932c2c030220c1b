"""Checks of the shapes and types of functions as they run."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jaxtyping
from beartype import BeartypeConf, beartype

Checked = TypeVar("Checked", bound=Callable[..., Any])

scope = jaxtyping.jaxtyped
"""`scope("context")`: where equal names of axes mean equal lengths."""
_check_types = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
"""A check that takes an int for a float, as Python's typing rules do (PEP 484), and raises a TypeError."""


def install(package: str) -> None:
    """Check the functions and dataclasses of a package that is not imported yet.

    Our decorator takes the place of the one that jaxtyping's hook puts on them, which binds the arguments of
    each call, to tell of them in its errors, and checks them twice: this takes longer than most of our
    functions.
    """
    jaxtyping.jaxtyped = lambda typechecker: checked
    jaxtyping.install_import_hook([package], "beartype.beartype")


def checked(target: Checked) -> Checked:
    """Return a function or dataclass with checks of its shapes and types.

    A generator's arguments would be checked only when it is first read, where names of axes are its reader's:
    it is returned as it is.
    """
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = _checked_function(target.__init__)
        return target
    return target if inspect.isgeneratorfunction(target) else _checked_function(target)


def _checked_function(function: Checked) -> Checked:
    @functools.cache
    def with_types() -> Callable[..., Any]:
        hints = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
        function.__annotations__ = hints
        return _check_types(function)

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*arguments, **options)
        with scope("context"):
            return with_types()(*arguments, **options)

    return call


def _resolved(hint: object, function: Callable[..., Any]) -> object:
    """Return a hint without quotes, or Any if it names what is imported for a type checker alone."""
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, function.__globals__)
    except NameError:
        return Any
