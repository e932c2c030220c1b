"""A dry run says what can be counted by hand, needs no weights and leaves nothing behind."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from distill import load_teacher
from distill.config.errors import UserError
from distill.networks.diffusers.meta import meta_pipeline
from distill.training.dry_run.meter import Meter
from train import main

TEACHER = Path("assets/digits-teacher")


def test_the_cost_of_a_linear_layer_is_that_by_hand() -> None:
    """It takes 2 b i o operations forward and as many for the weight's gradient.

    Input, output and sum are alive, and in the end the weight's gradient alone.
    """
    layer = nn.Linear(10, 20, bias=False, device="meta")
    with Meter(layer.parameters()) as meter:
        output = layer(torch.empty(4, 10, device="meta"))
        assert (meter.flops, meter.live) == (2 * 4 * 10 * 20, 4 * (4 * 10 + 4 * 20))
        total = output.sum()
        del output
        assert (meter.live, meter.peak) == (4 * (4 * 10 + 1), 4 * (4 * 10 + 4 * 20 + 1))
        total.backward()
        del total
    assert (meter.take_flops(), meter.take_flops(), meter.live) == (2 * 2 * 4 * 10 * 20, 0, 4 * 10 * 20)


@pytest.mark.parametrize(
    ("preset", "passes", "images"),
    [
        # docs/methods.md derives these: (a) 8, (b) 10, and 4 for each further fake update, without
        # discriminators, whose passes depend on their heads and on the network that they read.
        ("diff_instruct", "8.0", "64 images of the student and reads 0 real ones"),
        ("sid", "10.0", "64 images of the student and reads 0 real ones"),
        ("uni_instruct", "12.0", "64 images of the student and reads 64 real ones"),
        ("dmd2", "16.9", "128 images of the student and reads 128 real ones"),
        ("di_plus_plus", "9.0", "64 images of the student and reads 0 real ones"),
        ("di_star", "12.0", "64 images of the student and reads 0 real ones"),
    ],
)
def test_a_preset_takes_the_passes_of_the_documentation(
    preset: str, passes: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"configs/digits/{preset}.yaml", "--dry-run", "--run_dir", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"{passes} forward passes of the teacher" in said
    assert f"a generator step makes {images}" in said
    count = sum(parameter.numel() for parameter in load_teacher(TEACHER).parameters())
    assert f"teacher         UNet                 {count:>12,}  frozen" in said
    assert not (tmp_path / "run").exists()


def test_weights_may_be_absent_and_micro_batches_make_the_images_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TEACHER / "config.json", tmp_path)
    main(
        [
            "configs/digits/diff_instruct.yaml",
            "--dry-run",
            "--teacher.path",
            str(tmp_path),
            "--micro_batch_size",
            "16",
        ]
    )
    said = capsys.readouterr().out
    assert "9.0 forward passes of the teacher" in said
    assert "makes 128 images" in said
    assert "memory of one process: 16 images at once, computing in float32" in said


def test_several_steps_take_half_of_the_further_ones_for_training(capsys: pytest.CaptureFixture[str]) -> None:
    """One step takes 8 passes, and a student of 4 takes 3/2 more on average in the update that generates.

    Each further fake update takes as many again.
    """
    few = ["--generator.steps", "4"]
    main(["configs/digits/diff_instruct.yaml", "--dry-run", *few])
    said = capsys.readouterr().out
    assert "9.5 forward passes of the teacher" in said
    assert "an image of the student takes 4 evaluations, one for training 2.5 on average" in said
    main(["configs/digits/diff_instruct.yaml", "--dry-run", *few, "--fake.updates", "3"])
    assert "20.5 forward passes of the teacher" in capsys.readouterr().out


def test_the_steps_of_a_student_count_from_the_first_that_the_objective_trains(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["configs/digits/dp_dmd.yaml", "--dry-run"])
    said = capsys.readouterr().out
    assert "an image of the student takes 4 evaluations, one for training 3 on average" in said


def test_a_teacher_run_and_the_laboratory_have_one_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs/digits/teacher.yaml", "--dry-run"])
    assert "a step reads 128 images" in capsys.readouterr().out
    main(["configs/lab/exact_ring.yaml", "--dry-run"])
    assert "fake            ExactFakeScore                  0  frozen" in capsys.readouterr().out


def test_it_refuses_what_the_run_would_refuse() -> None:
    with pytest.raises(
        UserError,
        match=r"discriminator\.depths: 'bottelneck' is not a depth of the teacher; did you mean 'bottleneck'",
    ):
        main(["configs/digits/uni_instruct.yaml", "--dry-run", "--discriminator.depths", "[bottelneck]"])


def test_a_progress_line_names_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill.config.progress.is_terminal", lambda: True)
    main(["configs/digits/diff_instruct.yaml", "--dry-run"])
    said = capsys.readouterr().err
    for stage in ("all weights: outside the step", "all weights, activation checkpointing"):
        assert stage in said


class Calls(TorchDispatchMode):
    """Collects the operations that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(func)
        return func(*args, **(kwargs or {}))


def test_torch_infers_the_shapes_of_a_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Meter, "_outcomes", {})
    layer = nn.Linear(10, 20, device="meta")
    with Calls() as calls, Meter(layer.parameters()) as meter:
        for size in (4, 4, 5, 4):
            layer(torch.empty(size, 10, device="meta"))
    assert calls.operations.count(torch.ops.aten.addmm.default) == 2
    assert meter.flops == 2 * (4 + 4 + 5 + 4) * 10 * 20


PRESETS = sorted(Path("configs").glob("*/*.yaml"))
SLOW = (
    *("sd", "sana/", "flux", "qwen_image/", "z_image/", "pixart/"),
    *("imagenet64/", "cifar10/", "3d/sd15", "emoji/text_di", "emoji/text_dmd2_"),
)
"""Beginnings of the names of presets whose dry runs are long."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=name, marks=pytest.mark.slow if name.startswith(SLOW) else ())
        for path in PRESETS
        for name in [f"{path.parent.name}/{path.stem}"]
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_every_preset_s_dry_run_needs_neither_weights_nor_data_nor_the_hub(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a dry run asks the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert main([str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "nothing is loaded, trained or written" in said
    assert "floating-point operations" in said
    assert "at most, not counting memory of PyTorch itself" in said


PARAMETERS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"unet": 859_520_964, "text_encoder": 123_060_480},
    "stabilityai/stable-diffusion-2-1-base": {"unet": 865_910_724, "text_encoder": 340_387_840},
    "stabilityai/stable-diffusion-xl-base-1.0": {"unet": 2_567_463_684, "text_encoder_2": 694_659_840},
    "PixArt-alpha/PixArt-XL-2-512x512": {"transformer": 610_856_096, "text_encoder": 4_762_310_656},
    "stabilityai/stable-diffusion-3-medium-diffusers": {"transformer": 2_028_328_000},
    "black-forest-labs/FLUX.1-dev": {"transformer": 11_901_408_320},
    "black-forest-labs/FLUX.1-schnell": {"transformer": 11_891_178_560},
}
"""Parameters of the published networks."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_published_pipeline_s_outline_has_the_parameters_of_the_published_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipe = meta_pipeline(name)
    for part, count in PARAMETERS[name].items():
        assert sum(parameter.numel() for parameter in getattr(pipe, part).parameters()) == count
