"""Inputs that are computed once: a run from them is the run that encodes, bit for bit, and holds less."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from distill.__main__ import main as command
from distill.config.errors import UserError
from distill.data.sources import latents
from distill.data.stored_inputs import SHARD, Shards
from distill.storage.files import temporary_path
from distill.training.batches import precompute
from distill.training.config import read_config
from distill.training.distillation.build import load_teacher
from distill.training.distillation.task import Distillation
from distill.training.dry_run.summary import describe_run
from distill.training.logging import Clock
from tests.helpers.alone import ALONE
from tests.helpers.diffusers_families import FAMILIES
from tests.helpers.diffusers_runs import PROMPTS, SMALL, make_inputs, run
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    train_in_processes,
    write_run,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("precompute"))


def with_images(root: Path, family: str = "sd15") -> dict[str, Any]:
    """Return the settings of a run whose discriminator sees captioned images."""
    return {
        "task": "distill",
        "teacher": {"name": "diffusers", "path": str(root / family)},
        "data": {"name": "captioned_folder", "path": str(root / "images"), "resolution": 16},
        "prompts": {"name": "captions", "dropout": 0.3},
        "objective": {"name": "score_matching"},
        "discriminator": {"real": "data"},
        "terms": [{"name": "gan", "weight": 0.1}],
        "monitor_every": None,
    }


def precomputed(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings of the same run from precomputed inputs."""
    return {
        **config,
        "data": {"name": "latents", "path": str(folder)},
        "prompts": {**config["prompts"], "precomputed": str(folder)},
    }


def write(root: Path, config: dict[str, Any]) -> Path:
    return write_run(root, **{**SMALL, "run_dir": str(root / "unused"), **config})


@pytest.mark.parametrize(
    ("family", "held"),
    [
        ("sd15", "memory"),
        ("sdxl", "files"),
        pytest.param("sd15", "files", marks=pytest.mark.slow),
        pytest.param("sdxl", "memory", marks=pytest.mark.slow),
    ],
)
def test_a_run_from_precomputed_inputs_is_the_run_that_encodes(
    root: Path, family: str, held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_images(root, family)
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])
    if held == "files":
        monkeypatch.setattr(latents, "MAX_IN_MEMORY", 0)
    names = (f"encodes-{family}-{held}", f"reads-{family}-{held}")
    runs = [
        run(root, name, settings)
        for name, settings in zip(names, (config, precomputed(config, tmp_path / "inputs")), strict=True)
    ]
    assert_same_tensors(*[checkpoint_tensors(run_dir) for run_dir in runs])
    exports = [sorted(path.name for path in (run_dir / "export").iterdir()) for run_dir in runs]
    assert exports[0] == exports[1]  # the export is whole: its other parts are opened again
    assert (runs[1] / "export" / "text_encoder" / "model.safetensors").is_file()
    assert (runs[1] / "export" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == (
        runs[0] / "export" / "vae" / "diffusion_pytorch_model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_sharded_run_reads_precomputed_inputs(root: Path, tmp_path: Path) -> None:
    # Two images for each process: one alone would be encoded by another kernel.
    config = {**with_images(root), "sharding": {"strategy": "full"}, "batch_size": 4}
    folder = tmp_path / "inputs"
    precompute.main([str(write(root, config)), "--out", str(folder)])
    runs = []
    for name, settings in {"encodes": config, "reads": precomputed(config, folder)}.items():
        run_dir = tmp_path / name
        done = train_in_processes(write(root, {**settings, "run_dir": str(run_dir)}), processes=2)
        assert done.returncode == 0, done.stderr
        runs.append(checkpoint_tensors(run_dir))
    assert_same_tensors(*runs)
    sharded = {**config, "sharding": {"strategy": "full", "min_component_parameters": 0}}
    settings = {**precomputed(sharded, folder), "run_dir": str(tmp_path / "refused")}
    done = train_in_processes(write(root, settings), processes=2)
    assert "shards the autoencoder, to which the latents are compared; expected more than" in done.stderr


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart-sigma"])
def test_stored_prompts_are_the_encoded_ones(root: Path, family: str, tmp_path: Path) -> None:
    if not (root / family).is_dir():
        FAMILIES[family](root / family)
    prompts = {"name": "text_file", "path": str(root / "prompts.txt")}
    config: dict[str, Any] = {
        "task": "distill",
        "teacher": {"name": "diffusers", "path": str(root / family)},
        "prompts": prompts,
        "objective": {"name": "score_matching"},
    }
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])
    whole = load_teacher(read_config(write(root, config)))
    without = load_teacher(
        read_config(write(root, {**config, "prompts": {**prompts, "precomputed": str(tmp_path / "inputs")}}))
    )
    assert not any("text_encoder" in name for name in without.frozen_components())
    for prompt in PROMPTS:
        text, stored = whole.encode_prompts([prompt]).text, without.encode_prompts([prompt]).text
        for kind in ("given", "unconditional"):
            expected, found = getattr(text, kind), getattr(stored, kind)
            assert expected.keys() == found.keys()
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    expected_text = whole.prompt_encoder.unconditional(2)
    found_text = without.prompt_encoder.unconditional(2)
    assert expected_text.given.keys() == found_text.given.keys()
    for name, value in expected_text.given.items():
        torch.testing.assert_close(found_text.given[name], value)


def test_samples_of_the_teacher_serve_runs_that_encode_and_runs_that_read(root: Path, tmp_path: Path) -> None:
    config = with_images(root)
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])
    config["discriminator"] = {"real": "teacher"}
    config["teacher_samples"] = {"path": str(tmp_path / "samples"), "count": 2, "sampler": {"steps": 2}}
    for settings in (config, precomputed(config, tmp_path / "inputs")):
        task = Distillation(read_config(write(root, settings)), ALONE, Clock(ALONE.device))
        task.start(0)
    assert len(list((tmp_path / "samples").glob("*.safetensors"))) == 1


def test_neither_text_encoders_nor_the_images_encoder_are_held(root: Path, tmp_path: Path) -> None:
    config = with_images(root)
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])
    settings = read_config(write(root, precomputed(config, tmp_path / "inputs")))
    task = Distillation(settings, ALONE, Clock(ALONE.device))
    assert task.teacher.frozen_components().keys() == {"vae"}
    assert {name.split(".")[0] for name in task.teacher.codec.vae.state_dict()} == {
        "decoder",
        "post_quant_conv",
    }


@pytest.mark.slow
def test_a_dry_run_counts_neither(root: Path, tmp_path: Path) -> None:
    """Memory and micro-batches follow what a run holds: no text encoder, and half of the autoencoder."""
    config = with_images(root)
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])

    def rows(settings: dict[str, Any]) -> dict[str, int]:
        lines = describe_run(read_config(write(root, settings)), 0).splitlines()
        parts = [line.split() for line in lines if line.startswith(("vae ", "text_encoder "))]
        encoding = [line for line in lines if "encoding real images" in line]
        return {**{part[0]: int(part[2].replace(",", "")) for part in parts}, "lines": len(encoding)}

    encodes, reads = rows(config), rows(precomputed(config, tmp_path / "inputs"))
    settings = read_config(write(root, precomputed(config, tmp_path / "inputs")))
    vae = Distillation(settings, ALONE, Clock(ALONE.device)).teacher.frozen_components()["vae"]
    assert reads == {"vae": sum(weight.numel() for weight in vae.parameters()), "lines": 0}
    assert encodes.keys() == {"vae", "text_encoder", "lines"}
    assert encodes["vae"] > reads["vae"]
    assert encodes["lines"] == 1


def test_another_teacher_is_refused(root: Path, tmp_path: Path) -> None:
    config = with_images(root)
    inputs = tmp_path / "inputs"
    precompute.main([str(write(root, config)), "--out", str(inputs)])
    read = precomputed(config, inputs)
    shutil.copytree(root / "sd15", tmp_path / "moved")
    moved = {**read["teacher"], "path": str(tmp_path / "moved")}
    load_teacher(read_config(write(root, {**read, "teacher": moved})))  # the same teacher elsewhere
    other = tmp_path / "other"
    shutil.copytree(root / "sd15", other)
    tokens = other / "tokenizer" / "tokenizer_config.json"
    tokens.write_text(tokens.read_text() + "\n")
    with pytest.raises(
        UserError, match=r"belongs to another teacher: files_sha256 is '\w+' there and '\w+' here"
    ):
        load_teacher(read_config(write(root, {**read, "teacher": {**moved, "path": str(other)}})))
    with pytest.raises(UserError, match="another teacher: dtype is 'float32' there and 'bfloat16' here"):
        load_teacher(read_config(write(root, {**read, "teacher": {**moved, "dtype": "bfloat16"}})))
    unread = {**read, "prompts": config["prompts"], "teacher": {**moved, "dtype": "bfloat16"}}
    with pytest.raises(UserError, match=r"data.path: its latents belong to another autoencoder than the tea"):
        run(root, "other-latents", unread)
    with pytest.raises(UserError, match="monitor_every: compares images, and data holds latents"):
        from distill.eval.monitor import build_monitor
        from distill.training.launch import launch

        launch(read_config(write(root, {**read, "monitor_every": 2})), build_monitor)


@pytest.mark.parametrize(
    ("part", "name", "key"),
    [("latents", "image_shape", "data.path"), ("prompts", "encoder_sha256", "prompts.precomputed")],
)
def test_a_description_without_an_entry_is_refused(
    root: Path, tmp_path: Path, part: str, name: str, key: str
) -> None:
    config, inputs = with_images(root), tmp_path / "inputs"
    precompute.main([str(write(root, config)), "--out", str(inputs)])
    index = inputs / part / "index.json"
    description = json.loads(index.read_text())
    del description[name]
    index.write_text(json.dumps(description))
    read = read_config(write(root, precomputed(config, inputs)))
    with pytest.raises(UserError, match=f"^{key}: .* has no {name} that can be read; expected a folder that"):
        read.data.load()
        load_teacher(read)


def test_prompts_that_are_not_there_are_named(root: Path, tmp_path: Path) -> None:
    config = with_images(root)
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])
    teacher = load_teacher(read_config(write(root, precomputed(config, tmp_path / "inputs"))))
    with pytest.raises(UserError, match="has no prompt 'two dog'; did you mean 'two dogs'"):
        teacher.encode_prompts(["two dog"])
    native = {**config, "teacher": {"name": "native", "path": "x"}, "data": None, "discriminator": None}
    settings = {**native, "terms": [], "prompts": {"name": "text_file", "path": "p", "precomputed": "q"}}
    with pytest.raises(
        UserError, match=r"prompts.precomputed: goes with a pipeline as teacher; expected null"
    ):
        load_teacher(read_config(write(root, settings)))
    both = {**config["prompts"], "precomputed": "a", "cache": "b"}
    with pytest.raises(UserError, match="cache: goes without precomputed; expected one of them"):
        read_config(write(root, {**config, "prompts": both}))


def test_a_stopped_command_goes_on(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.data.stored_inputs.SHARD", 2)
    config = with_images(root)
    path, inputs = write(root, config), tmp_path / "inputs"
    written: list[Path] = []
    original = Shards.write

    def stop_at_second(shards: Shards, file: Path, tensors: dict[str, torch.Tensor]) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(file)
        original(shards, file, tensors)

    monkeypatch.setattr(Shards, "write", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        precompute.main([str(path), "--out", str(inputs)])
    with pytest.raises(UserError, match=r"lacks 1 of 2 files, the first 00000002.safetensors; run the same"):
        latents.Settings(path=inputs).load()
    first = written[0].stat().st_mtime_ns
    monkeypatch.setattr(Shards, "write", original)
    precompute.main([str(path), "--out", str(inputs)])
    assert written[0].stat().st_mtime_ns == first
    assert len(latents.Settings(path=inputs).load()) == 3
    (root / "images" / "0.txt").write_text("another cat")
    try:
        with pytest.raises(UserError, match="inputs/latents holds other inputs: captions_sha256 is"):
            precompute.main([str(path), "--out", str(inputs)])
    finally:
        (root / "images" / "0.txt").write_text(PROMPTS[0])
    damaged = inputs / "latents" / "00000000.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\x00\x01\x02\x03")
    with pytest.raises(UserError, match=r"00000000.safetensors: is damaged"):
        latents.Settings(path=inputs).load()


def test_processes_share_the_files(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.data.stored_inputs.SHARD", 1)
    path = write(root, with_images(root))
    precompute.main([str(path), "--out", str(tmp_path / "alone")])
    for rank in range(2):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        precompute.main([str(path), "--out", str(tmp_path / "together")])
        files = sorted(file.name for file in (tmp_path / "together" / "latents").glob("0*.safetensors"))
        assert files == [f"{row:08d}.safetensors" for row in ([0, 2], [0, 1, 2])[rank]]
    for file in (tmp_path / "alone").rglob("*.safetensors"):
        other = tmp_path / "together" / file.relative_to(tmp_path / "alone")
        assert file.read_bytes() == other.read_bytes()


def test_the_command_says_which_settings_read_its_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(root, with_images(root))
    assert not command(["precompute", str(file), "--out", str(tmp_path / "inputs")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"data: {{name: latents, path: {tmp_path / 'inputs'}}}  # 3 latents of 4x8x8",
        f"prompts: {{name: captions, ..., precomputed: {tmp_path / 'inputs'}}}  # 3 prompts",
    ]
    assert yaml.safe_load(lines[0])["data"]["name"] == "latents"
    index = json.loads((tmp_path / "inputs" / "latents" / "index.json").read_text())
    assert (index["count"], index["image_shape"], index["has_captions"]) == (3, [4, 8, 8], True)
    assert SHARD == 256


@pytest.mark.parametrize("reader", ["real_data", "step_inputs"])
def test_images_are_encoded_for_whatever_is_trained_on_them(root: Path, tmp_path: Path, reader: str) -> None:
    config = {**with_images(root), "discriminator": None, "terms": []}
    if reader == "real_data":
        config["objective"] = {"name": "score_matching", "real_data": {"alpha": 0.95, "beta": 0.97}}
    else:
        config["generator"] = {"steps": 2, "step_inputs": "data"}
    precompute.main([str(write(root, config)), "--out", str(tmp_path / "inputs")])
    assert len(latents.Settings(path=tmp_path / "inputs").load()) == 3


def test_a_folder_that_another_process_begins_is_no_other_folder(root: Path, tmp_path: Path) -> None:
    """The index of another process, which it is about to put into its place, is not there yet."""
    (tmp_path / "inputs" / "latents").mkdir(parents=True)
    temporary_path(tmp_path / "inputs" / "latents" / "index.json", "partial").write_text("{")
    precompute.main([str(write(root, with_images(root))), "--out", str(tmp_path / "inputs")])
    assert len(latents.Settings(path=tmp_path / "inputs").load()) == 3
    (tmp_path / "other" / "latents").mkdir(parents=True)
    (tmp_path / "other" / "latents" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"latents is there and holds no index.json; expected a new folder"):
        precompute.main([str(write(root, with_images(root))), "--out", str(tmp_path / "other")])


@pytest.mark.parametrize("data", ["images", "latents"])
def test_what_a_term_compares_with_is_checked(root: Path, tmp_path: Path, data: str) -> None:
    """No batch holds these images, whose sizes and autoencoder must fit all the same."""
    config = {**with_images(root), "discriminator": None, "prompts": {"name": "text_file"}}
    config["prompts"]["path"] = str(root / "prompts.txt")
    config["terms"] = [{"name": "representation", "weight": 1.0, "memory": 4}]
    if data == "images":
        config["data"] = {**config["data"], "resolution": 32}
        message = r"data: images of \(3, 32, 32\); expected \(3, 16, 16\) as the network's"
    else:
        precompute.main([str(write(root, with_images(root, "sdxl"))), "--out", str(tmp_path / "inputs")])
        config["data"] = {"name": "latents", "path": str(tmp_path / "inputs")}
        message = "data.path: its latents belong to another autoencoder than the teacher's vae"
    with pytest.raises(UserError, match=message):
        run(root, f"compares-{data}", config)
