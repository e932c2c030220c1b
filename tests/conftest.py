"""Shapes and types of functions are checked while tests run."""

import tests.typechecker  # noqa: F401 - the hook below looks it up
from jaxtyping import install_import_hook

install_import_hook(["distill", "eval"], "tests.typechecker.check")
