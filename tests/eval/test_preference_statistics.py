"""Means, standard errors and win rates against sums by hand, closed forms and simulated coverage."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from distill.eval.preference.results import by_prompt, measure
from distill.eval.preference.statistics import mean_over_prompts, wilson, win_rate
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt

SCORES = torch.tensor([[1.0, 3.0], [5.0, 5.0], [0.0, 2.0]], dtype=torch.float64)
"""Scores of two images of each of three prompts."""
PROMPTS = PromptSet.whole("mine", "mine.txt", [Prompt("a", "x"), Prompt("b", "y"), Prompt("c", "x")])


def test_a_mean_and_its_error_by_hand() -> None:
    mean, error = mean_over_prompts(SCORES)  # of the means 2, 5, 1
    assert mean == pytest.approx(8 / 3)
    assert error == pytest.approx(math.sqrt(((2 - 8 / 3) ** 2 + (5 - 8 / 3) ** 2 + (1 - 8 / 3) ** 2) / 2 / 3))
    assert mean_over_prompts(SCORES[:1]) == (2.0, None)


def test_the_error_is_that_of_means_however_alike_the_images_of_a_prompt() -> None:
    """Copies count once; over 400 experiments the mean error is the standard deviation of the means."""
    alone = mean_over_prompts(SCORES[:, :1])
    assert mean_over_prompts(SCORES[:, :1].repeat(1, 7)) == pytest.approx(alone)
    torch.manual_seed(0)
    drawn = torch.randn(400, 50, 1, dtype=torch.float64) + 0.5 * torch.randn(400, 50, 4, dtype=torch.float64)
    found = [mean_over_prompts(experiment) for experiment in drawn]
    spread = torch.tensor([one.mean for one in found]).std().item()
    assert sum(one.standard_error or 0 for one in found) / 400 == pytest.approx(spread, rel=0.08)
    assert math.sqrt((1 + 0.25 / 4) / 50) == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize(("rate", "count"), [(0.5, 10), (0.9, 40), (0.0, 7), (1.0, 25), (0.612, 1632)])
def test_the_interval_of_wilson(rate: float, count: int) -> None:
    """Its ends solve |rate - p| = z sqrt(p (1 - p) / count), and scipy's are the same."""
    low, high = wilson(rate, count)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(rate - end) == pytest.approx(
                stats.norm.ppf(0.975) * math.sqrt(end * (1 - end) / count), rel=1e-9
            )
    wins = round(rate * count)
    if wins == rate * count:
        theirs = stats.binomtest(wins, count).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_win_rates() -> None:
    second = torch.tensor([[0.0, 3.0], [6.0, 4.0], [0.0, 1.0]], dtype=torch.float64)
    found = win_rate(SCORES, second)  # win, tie; loss, win; tie, win
    assert found.rate == pytest.approx((3 + 2 * 0.5) / 6)
    assert (found.low, found.high) == wilson(found.rate, 3)  # of three prompts, not of six images
    reverse = win_rate(second, SCORES)
    assert (reverse.rate, reverse.low, reverse.high) == pytest.approx(
        (1 - found.rate, 1 - found.high, 1 - found.low)
    )


def test_the_interval_holds_the_true_share_as_often_as_it_says() -> None:
    """Over all outcomes of 60 coins it is 95 % on average over the share; with two images it is more."""
    shares = torch.linspace(0.2, 0.8, 61, dtype=torch.float64).tolist()
    one_image = [coverage(share, tosses=60, prompts=60) for share in shares]
    assert sum(one_image) / 61 == pytest.approx(0.95, abs=0.005)
    two_images = [coverage(share, tosses=120, prompts=60) for share in shares]
    assert min(two_images) > 0.97


def coverage(share: float, tosses: int, prompts: int) -> float:
    """Compute how often the interval for `prompts` trials contains the share, over all numbers of wins."""
    total = 0.0
    for wins in range(tosses + 1):
        low, high = wilson(wins / tosses, prompts)
        if low <= share <= high:
            total += float(stats.binom.pmf(wins, tosses, share))
    return total


def test_numbers_by_category_and_against() -> None:
    rows = SCORES.T.flatten().tolist()  # the prompts by turns
    assert torch.equal(by_prompt(rows, 3), SCORES)
    second = [value - 1 if row % 3 == 0 else value + 1 for row, value in enumerate(rows)]
    found = measure([rows, second], PROMPTS)
    assert found["values"] == rows
    assert found["against"]["values"] == second
    assert list(found["by_category"]) == ["x", "y"]
    x = found["by_category"]["x"]
    assert (x["count"], x["mean"], x["standard_error"]) == (2, 1.5, pytest.approx(0.5))
    assert (x["against"]["mean"], x["against"]["win_rate"], x["against"]["difference"]) == (1.5, 0.5, 0.0)
    assert x["against"]["difference_error"] == pytest.approx(1.0)
    assert found["by_category"]["y"]["standard_error"] is None
    assert found["against"]["win_rate"] == pytest.approx(1 / 3)
    assert found["against"]["difference"] == pytest.approx(-1 / 3)
    assert "against" not in measure([rows], PROMPTS)


def test_images_of_labels_are_all_independent() -> None:
    """Labels are not drawn: ten images of each of two labels are twenty draws, ten for each label."""
    labels = PromptSet.whole(
        "labels", "labels:2", [Prompt(f"label {label}", f"label {label}", label) for label in range(2)]
    )
    values = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = measure([values.tolist(), (values - 1).tolist()], labels)
    assert found["standard_error"] == pytest.approx((values.std() / 20**0.5).item())
    assert found["against"]["win_interval"] == [*wilson(1.0, 20)]
    odd = found["by_category"]["label 1"]
    assert (odd["count"], odd["mean"]) == (10, pytest.approx(values[1::2].mean().item()))
    assert odd["standard_error"] == pytest.approx((values[1::2].std() / 10**0.5).item())
