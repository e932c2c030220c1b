"""Compiled losses are those of the same step uncompiled."""

from pathlib import Path

import pytest

from tests.helpers.compiled_steps import difference
from tests.helpers.methods import DATA, METHODS
from tests.helpers.runs import write_run


@pytest.mark.slow
def test_a_compiled_step_is_that_of_the_uncompiled_run(tmp_path: Path) -> None:
    """`aot_eager` runs the traced operations themselves, so that their results are equal to the bit."""
    config = write_run(tmp_path, batch_size=4, **METHODS["sid"])
    assert difference(config, "step", "aot_eager") == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["blocks", "step"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_compiled(method: str, how: str, tmp_path: Path) -> None:
    """The exception is a term that settings refuse with compiled steps: its method is compiled without it."""
    terms = METHODS[method].get("terms", ())
    kept = [term for term in terms if (term["name"], how) != ("representation", "step")]
    config = write_run(tmp_path, batch_size=4, **{**METHODS[method], "terms": kept})
    assert difference(config, how, "aot_eager") < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("method", "how"), [("sid", "step"), ("uni_instruct", "step"), ("sid", "blocks")])
def test_fused_kernels_differ_by_rounding_only(method: str, how: str, tmp_path: Path) -> None:
    config = write_run(tmp_path, batch_size=4, **METHODS[method])
    assert difference(config, how, "inductor") < 1e-3


@pytest.mark.slow
def test_the_loss_of_a_teacher_can_be_compiled(tmp_path: Path) -> None:
    network = {"width": 8, "multipliers": [1, 2], "blocks": 1}
    config = write_run(tmp_path, task="train_teacher", data=DATA, network=network, batch_size=4)
    assert difference(config, "step", "aot_eager") == 0
