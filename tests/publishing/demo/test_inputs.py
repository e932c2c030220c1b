"""What a visitor of the page may ask for, and the one line that refuses the rest."""

from __future__ import annotations

import pytest

from distill.config.errors import UserError
from distill.publishing.demo.inputs import Inputs, read_inputs, read_teacher_sampler
from tests.helpers.small_networks import small_network


def test_seeds_follow_the_first_and_a_prompt_has_single_spaces() -> None:
    inputs = read_inputs(" 7 ", 3, None, "  a red\n apple ")
    assert inputs == Inputs(range(7, 10), "all", "a red apple")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("1.5", 1, None, None), "Seed: found '1.5'; expected a whole number less than 2^62, such as 7"),
        (("-1", 1, None, None), "Seed: found '-1'; expected a whole number less than 2^62, such as 7"),
        (("", 1, None, None), "Seed: found nothing; expected a whole number less than 2^62, such as 7"),
        ((str(2**62), 1, None, None), f"Seed: found '{2**62}'; expected a whole number less than 2^62"),
        (("9" * 5000, 1, None, None), f"Seed: found '{'9' * 40}'; expected a whole number less than 2^62"),
        (("0", 0, None, None), "Images: 0; expected a whole number from 1 to 16"),
        (("0", 17, None, None), "Images: 17; expected a whole number from 1 to 16"),
        (("0", 1.5, None, None), "Images: 1.5; expected a whole number from 1 to 16"),
        (("0", 1, " ", None), "Labels: found nothing; expected all, or numbers such as 3, 0-9 or 1,3,5"),
        (("0", 1, None, " \n"), "Prompt: is empty; expected a text, such as: a red apple"),
        (("0", 1, None, "x" * 2001), "Prompt: has 2001 characters; expected at most 2000"),
    ],
)
def test_bad_input_is_refused(given: tuple[str, float, str | None, str | None], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_inputs(*given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("steps", "guidance", "message"),
    [
        (0, None, "Steps of the teacher: 0; expected 1 to 100"),
        (101, None, "Steps of the teacher: 101; expected 1 to 100"),
        (2.5, None, "Teacher's steps: expected a whole number"),
        (18, float("nan"), "Teacher's guidance: expected a finite number; found nan"),
    ],
)
def test_a_wrong_sampler_is_refused(steps: float, guidance: float | None, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_teacher_sampler(steps, guidance)
    assert str(error.value).startswith(message)


def test_a_sampler_without_guidance_has_a_scale_of_one() -> None:
    sampler = read_teacher_sampler(9, None)
    assert (sampler.steps, sampler.guidance, sampler.evaluations) == (9, 1.0, 17)


def test_labels_are_taken_in_turn_and_one_out_of_range_is_refused() -> None:
    network = small_network("unet")
    cond, prompts = Inputs(range(5), "1,3").condition_for(network)
    assert cond.label is not None
    assert (cond.label.tolist(), prompts) == ([1, 3, 1, 3, 1], ())
    with pytest.raises(UserError, match=r"labels 4: 4 is out of range; expected labels from 0 to 3$"):
        Inputs(range(5), "4").condition_for(network)


def test_an_unconditional_network_takes_no_label_of_the_other_one() -> None:
    cond, _ = Inputs(range(2), "3").condition_for(small_network("unet", label_count=0))
    assert cond.label is None
