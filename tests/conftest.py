"""Shapes and types of functions are checked while tests run."""

from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401 - the hook below looks it up

install_import_hook(["distill", "eval"], "tests.typechecker.check")
