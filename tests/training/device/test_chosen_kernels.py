"""The settings of a run choose torch's kernels for a GPU, and the process gets its own choice back.

The switches can be set without a GPU, where nothing heeds them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import deterministic

from distill.config.errors import TrainingError
from distill.training.device.kernels import chosen_kernels, describe_kernels, nondeterministic_operation
from distill.training.distillation.task import Distillation
from tests.helpers.runs import read_run, train_run, write_run

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture(autouse=True)
def _without_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "to be deleted, and set back after the test")
    monkeypatch.delenv(WORKSPACE)


def modes() -> dict[str, bool]:
    return {
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "fill": deterministic.fill_uninitialized_memory,
    }


def modes_in_run(folder: Path, device: torch.device, **settings: Any) -> dict[str, bool]:
    with chosen_kernels(read_run(write_run(folder, **settings)), device):
        return modes()


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_holds_for_products_and_convolutions(tf32: bool, tmp_path: Path) -> None:
    found = modes_in_run(tmp_path, CUDA, tf32=tf32)
    assert (found["matmul_tf32"], found["cudnn_tf32"]) == (tf32, tf32)


def test_a_run_searches_for_the_fastest_convolutions(tmp_path: Path) -> None:
    found = modes_in_run(tmp_path, CUDA)
    assert found["cudnn_benchmark"]
    assert not found["deterministic"]


def test_a_deterministic_run_allows_no_kernel_that_adds_in_a_changing_order(tmp_path: Path) -> None:
    """Uninitialised memory is not filled: nothing reads it, and it would take time."""
    found = modes_in_run(tmp_path, CUDA, deterministic=True)
    assert found["deterministic"]
    assert found["cudnn_deterministic"]
    assert not found["cudnn_benchmark"]
    assert not found["fill"]


def test_cublas_has_one_buffer_for_each_stream_before_its_first_use(tmp_path: Path) -> None:
    modes_in_run(tmp_path, CUDA)
    assert os.environ[WORKSPACE] == ":4096:8"


def test_the_process_gets_its_own_modes_back(tmp_path: Path) -> None:
    before = modes()
    config = read_run(write_run(tmp_path, deterministic=True))
    with pytest.raises(KeyError), chosen_kernels(config, CUDA):
        raise KeyError
    assert modes() == before


def test_a_run_on_a_cpu_leaves_the_modes_alone(tmp_path: Path) -> None:
    before = modes()
    assert modes_in_run(tmp_path, CPU, deterministic=True, tf32=True) == before
    assert WORKSPACE not in os.environ


def test_a_line_says_how_a_gpu_computes_and_what_determinism_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    settings = {"precision": "bf16", "tf32": False, "compile": "blocks", "channels_last": True}
    config = read_run(write_run(tmp_path, **settings, deterministic=True))
    assert describe_kernels(config, CUDA) == (
        "NVIDIA H200: precision bf16, TF32 off, compile blocks, channels last, "
        "deterministic: kernels that add in a fixed order, of which some are slower"
    )


TORCH_SAYS = (
    "upsample_bilinear2d_backward_out_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation, or ..."
)


def test_an_operation_without_a_deterministic_kernel_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(self: object, step: int, detailed: bool) -> dict[str, torch.Tensor]:
        raise RuntimeError(TORCH_SAYS)

    monkeypatch.setattr(Distillation, "update", update)
    with pytest.raises(TrainingError) as error:
        train_run(write_run(tmp_path, deterministic=True))
    assert str(error.value) == (
        "deterministic: upsample_bilinear2d_backward_out_cuda adds in a changing order on cpu; expected false"
    )


def test_other_errors_are_no_matter_of_determinism() -> None:
    assert nondeterministic_operation(RuntimeError("shapes differ")) is None
    product = RuntimeError("... you must set an environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8 ...")
    assert nondeterministic_operation(product) == "a cuBLAS product"
