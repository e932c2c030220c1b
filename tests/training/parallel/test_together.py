"""Parts of a run that two processes do together, over gloo: the work is divided, and errors are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import distill.training.distillation.teacher_samples
from tests.helpers.alone import ALONE
from tests.helpers.together import call_in_processes, draw_samples, measured, prompts, statistics

Found = dict[str, list[Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Call every case in two processes, and return what it gave on each."""
    return call_in_processes(tmp_path_factory.mktemp("together"))


def test_rows_are_divided_into_equal_parts_and_gathered_without_repetitions(found: Found) -> None:
    first, second = found["rows"]
    assert [own for own, _ in first] == [[0], [0, 1], [0, 1, 2, 3]]
    assert [own for own, _ in second] == [[0], [2, 3], [4, 5, 6, 6]]
    for whole in ([whole for _, whole in process] for process in (first, second)):
        assert whole == [list(range(count)) for count in (1, 4, 7)]


def test_an_error_of_one_process_is_raised_by_all(found: Found) -> None:
    for said in found["errors"]:
        assert said == ["", "UserError: failed on 1", "UserError: failed on 0"]


def test_a_loss_that_is_not_finite_on_one_process_stops_all_with_its_line(found: Found) -> None:
    """The norm of the gradient, which is not finite on all, is not what is said."""
    of_gan = (
        "TrainingError: step 7: loss 'gan' is nan on process 1 of 2; its batch's noise levels are quantiles "
        "0.1250 to 0.2500; the last checkpoint is untouched"
    )
    of_norm = "TrainingError: step 10: the norm of the generator's gradient is inf"
    for said in found["finite"]:
        assert said == ["", "", of_gan, "", "", f"{of_norm}; the last checkpoint is untouched"]


def test_two_processes_write_the_files_of_teacher_samples_that_one_writes(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill.training.distillation.teacher_samples, "SHARD", 4)
    alone, _ = draw_samples(ALONE, tmp_path / "alone")
    assert list(alone) == [*(f"{start:08d}.safetensors" for start in (0, 4, 8)), "samples.json"]
    assert found["teacher_files"] == [alone, alone]


def test_processes_call_a_sharded_teacher_equally_often(found: Found) -> None:
    """Two shards of four are drawn at once, then one of two, which the process without a shard draws too."""
    (files, first), (_, second) = found["teacher_files_of_sharded"]
    assert first == second
    assert set(first[:-3]) == {4}
    assert set(first[-3:]) == {2}
    assert files == found["teacher_files"][0]


def test_a_process_that_cannot_store_samples_ends_all_with_one_line(found: Found) -> None:
    first, second = found["full_disk"]
    assert first == second
    assert first.startswith("UserError: teacher_samples.path: ")
    assert first.endswith("full_disk cannot be written (No space left on device)")


def test_processes_call_a_sharded_encoder_equally_often(found: Found, tmp_path: Path) -> None:
    (of_first, tokens_of_first, again), (of_second, tokens_of_second, again_there) = found["prompts"]
    assert of_first == ["a", "bb", ""]
    assert of_second == ["ccc", "", ""]  # one more than it needs, and the one for no prompt
    assert (tokens_of_first, tokens_of_second) == ([1.0, 2.0, 1.0], [3.0, 3.0, 3.0])
    assert again == again_there == []  # each finds what the other stored
    assert prompts(ALONE, tmp_path) == (["a", "bb", ""], [1.0, 2.0, 1.0], ["ccc"])


def test_statistics_of_real_images_are_those_of_one_process(found: Found, tmp_path: Path) -> None:
    for computed in found["statistics"]:
        for part, expected in zip(computed, statistics(ALONE, tmp_path), strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-10, atol=1e-8)


def test_all_processes_get_the_measurement_of_all_images_or_its_error(found: Found, tmp_path: Path) -> None:
    alone, _ = measured(ALONE, tmp_path)
    assert alone == {"n": 7, "sum": 91.0}
    assert found["measured"] == [(alone, "UserError: an image is below 0")] * 2
