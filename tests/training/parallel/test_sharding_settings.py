"""Settings of sharding: which go together, and how processes form groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config.errors import UserError
from distill.training.parallel.settings import ShardingSettings
from tests.helpers.methods import CRITIC, DATA
from tests.helpers.runs import read_run, write_run

R1 = {"weight": 1.0, "recompute": True}


@pytest.mark.parametrize(
    ("strategy", "group_size", "processes", "nodes", "copies_and_shards"),
    [
        ("none", None, 8, 2, (8, 1)),
        ("full", None, 8, 2, (1, 8)),
        ("hybrid", None, 8, 2, (2, 4)),
        ("hybrid", 2, 8, 2, (4, 2)),
    ],
)
def test_processes_form_groups_that_share_a_copy(
    strategy: str, group_size: int | None, processes: int, nodes: int, copies_and_shards: tuple[int, int]
) -> None:
    settings = ShardingSettings.model_validate({"strategy": strategy, "group_size": group_size})
    assert settings.sizes(processes, nodes) == copies_and_shards


def test_a_group_that_does_not_divide_the_processes_is_refused() -> None:
    settings = ShardingSettings(strategy="hybrid", group_size=3)
    with pytest.raises(ValueError, match="group_size: 3 does not divide the 8 processes; expected a divisor"):
        settings.sizes(8, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--sharding.group_size=2"], "group_size: goes with hybrid; expected null with none"),
        (
            ["--sharding.strategy=full", "--compile=step"],
            "compile: step does not go with sharding; expected blocks or none",
        ),
        (
            ["--sharding.strategy=full"],
            "discriminator.r1.recompute: true does not go with sharding; expected false",
        ),
    ],
)
def test_settings_that_do_not_go_with_sharding_are_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    file = write_run(tmp_path, data=DATA, discriminator={**CRITIC, "r1": R1})
    with pytest.raises(UserError, match=r"run\.yaml: ") as error:
        read_run(file, *overrides)
    assert message in str(error.value)
