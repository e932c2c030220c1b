"""Shapes and types of public functions are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook(["distill", "eval"], "beartype.beartype")
