"""Rewards by name, as choices of a configuration and as scores of an evaluation."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distill.config.errors import UserError
from distill.config.settings import Choice
from distill.rewards import RewardSettings, of_name, prompts_of
from tests.helpers.tiny_reward_networks import prompted

REWARDS = [
    "aesthetic",
    "classifier",
    "clipscore",
    "hpsv2",
    "hpsv3",
    "imagereward",
    "pickscore",
    "vqascore",
    "word_match",
]


def test_the_room_and_the_scores() -> None:
    assert Choice("rewards").names == REWARDS
    for name in REWARDS:
        settings = of_name(
            name, weight=0.5, **({"path": "here"} if name in ("classifier", "word_match") else {})
        )
        assert isinstance(settings, RewardSettings)
        assert (settings.name, settings.weight) == (name, 0.5)
    assert [of_name(name).version for name in ("hpsv2", "hpsv2.1")] == ["v2.0", "v2.1"]  # type: ignore[attr-defined]
    assert type(of_name("hpsv2"))().version == "v2.1"  # type: ignore[attr-defined]


def test_a_wrong_score_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^'pickscor' is no score; did you mean 'pickscore'\?$"):
        of_name("pickscor")
    with pytest.raises(UserError, match=r"^hpsv2.1: unknown key 'paht'; did you mean 'path'\?$"):
        of_name("hpsv2.1", paht="x")


def test_prompts_are_as_many_as_images() -> None:
    assert prompts_of(prompted("a", "b"), 2, "here") == ("a", "b")
    with pytest.raises(ValueError, match="here: 2 prompts for 3 images"):
        prompts_of(prompted("a", "b"), 3, "here")


def test_settings_are_checked_without_torch() -> None:
    """`train.py --help` lists the settings without importing torch."""
    program = """
import sys
from distill.config.settings import Choice
rewards = Choice("rewards")
assert [rewards.settings(name) for name in rewards.names]
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr
