"""Formats of a pipeline's weights: in shards, in variants, and in single files."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import distill
from distill.config.errors import UserError
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.export import export_generator
from distill.students.lora import Student as LoRA
from distill.teachers.diffusers import Settings
from tests.helpers.diffusers_inputs import PipelineFolders
from tests.helpers.diffusers_runs import image_of_diffusers, image_of_ours
from tests.helpers.single_files import original_unet, save_original

SHARD = "40KB"


def pipeline(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder)


def states(teacher: DiffusersNetwork) -> dict[str, torch.Tensor]:
    """Return all weights of a teacher's pipeline by name."""
    parts: Mapping[str, Any] = {"denoiser": teacher.network, **teacher.pipeline.components()}
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        if isinstance(part, torch.nn.Module)
        for key, value in part.state_dict().items()
    }


def assert_equal_states(found: DiffusersNetwork, expected: dict[str, torch.Tensor]) -> None:
    assert states(found).keys() == expected.keys()
    for name, value in states(found).items():
        assert torch.equal(value, expected[name]), name


def assert_same_shapes_without_weights(settings: Settings) -> None:
    """Check that a dry run's network, and a shard's template, have the shapes of the opened one."""
    shapes = {name: value.shape for name, value in settings.load().state_dict().items()}
    for network in (settings.meta(), settings.load_without_weights(100)):
        assert {name: value.shape for name, value in network.state_dict().items()} == shapes
        assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_shards_hold_the_same_weights(folders: PipelineFolders, family: str, tmp_path: Path) -> None:
    pipeline(folders[family]).save_pretrained(tmp_path / "shards", max_shard_size=SHARD)
    indices = list((tmp_path / "shards").rglob("*.safetensors.index.json"))
    assert len({index.parent for index in indices}) == len(indices) >= 1
    sharded = Settings(path=str(tmp_path / "shards"))
    assert_equal_states(sharded.load(), states(Settings(path=str(folders[family])).load()))
    assert_same_shapes_without_weights(sharded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shard_size", [SHARD, "10GB"])
def test_a_variant_holds_rounded_weights(
    folders: PipelineFolders, dtype: str, shard_size: str, tmp_path: Path
) -> None:
    half: torch.dtype = getattr(torch, dtype)
    variant = {"float16": "fp16", "bfloat16": "bf16"}[dtype]
    pipe = pipeline(folders["sd15"]).to(half)
    pipe.save_pretrained(tmp_path / "half", variant=variant, max_shard_size=shard_size)
    expected = states(Settings(path=str(folders["sd15"])).load())
    rounded = {
        name: value.to(half).float() if value.is_floating_point() else value
        for name, value in expected.items()
    }
    settings = Settings(path=str(tmp_path / "half"), variant=variant)
    assert_equal_states(settings.load(), rounded)
    assert_same_shapes_without_weights(settings)
    if half == torch.bfloat16:
        teacher = settings.model_copy(update={"dtype": "bfloat16"}).load()
        assert torch.equal(teacher.network.conv_in.weight.float(), rounded["denoiser.conv_in.weight"])
        assert teacher.dtype == torch.bfloat16


def test_parts_without_the_variant_are_read_from_their_plain_files(
    folders: PipelineFolders, tmp_path: Path
) -> None:
    shutil.copytree(folders["sd15"], tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "unet")
    network = pipeline(folders["sd15"]).unet.half()
    network.save_pretrained(tmp_path / "mixed" / "unet", variant="fp16")
    expected = states(Settings(path=str(folders["sd15"])).load())
    teacher = Settings(path=str(tmp_path / "mixed"), variant="fp16").load()
    assert torch.equal(states(teacher)["vae.decoder.conv_in.weight"], expected["vae.decoder.conv_in.weight"])
    name = "denoiser.conv_in.weight"
    assert torch.equal(states(teacher)[name], expected[name].half().float())


def test_variants_that_are_not_there_are_refused(folders: PipelineFolders, tmp_path: Path) -> None:
    pipeline(folders["sd15"]).save_pretrained(tmp_path / "fp16", variant="fp16")
    alone = "fp16/text_encoder holds weights of variant fp16 alone; expected variant: fp16"
    with pytest.raises(UserError, match=alone):
        Settings(path=str(tmp_path / "fp16")).load()
    with pytest.raises(UserError, match="no weights of variant 'fp61'; did you mean 'fp16'"):
        Settings(path=str(tmp_path / "fp16"), variant="fp61").load()
    with pytest.raises(UserError, match="no weights of variant 'fp16'; expected variant: null"):
        Settings(path=str(folders["sd15"]), variant="fp16").load()


def test_a_missing_shard_is_named(folders: PipelineFolders, tmp_path: Path) -> None:
    pipeline(folders["sd15"]).save_pretrained(tmp_path / "shards", max_shard_size=SHARD)
    shard = sorted((tmp_path / "shards" / "unet").glob("*00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is not there; .*index.json lists it as a shard"):
        Settings(path=str(tmp_path / "shards")).load()
    index = tmp_path / "shards" / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": 3}))
    with pytest.raises(UserError, match="has no 'weight_map'; expected the shard of each weight"):
        Settings(path=str(tmp_path / "shards")).load()


def test_the_export_of_a_large_student_is_in_shards(
    folders: PipelineFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import ModelMixin

    # diffusers writes shards of 10 GB.
    small = functools.partialmethod(ModelMixin.save_pretrained, max_shard_size=SHARD)
    monkeypatch.setattr(ModelMixin, "save_pretrained", small)
    generator = FewStepGenerator(Settings(path=str(folders["sd15"])).load(), 2.5)
    (tmp_path / "export").mkdir()
    export_generator(generator, tmp_path / "export")
    assert len(list((tmp_path / "export" / "unet").glob("*-of-*.safetensors"))) > 1
    z = torch.randn(2, *generator.noise_shape)
    ours = image_of_ours(generator, z)
    torch.testing.assert_close(image_of_diffusers(tmp_path / "export", z), ours, rtol=0, atol=1e-5)
    opened = distill.load_generator(tmp_path / "export")
    torch.testing.assert_close(image_of_ours(opened, z), ours, rtol=0, atol=1e-6)


@pytest.fixture
def original(folders: PipelineFolders, tmp_path: Path) -> Path:
    """Stable Diffusion in one file, beside a folder `config` of its configurations without weights."""
    skipped = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folders["sd15"], tmp_path / "config", ignore=skipped)
    return save_original(pipeline(folders["sd15"]), tmp_path / "sd.safetensors")


def test_a_single_file_holds_the_whole_pipeline(folders: PipelineFolders, original: Path) -> None:
    settings = Settings(path=str(original), config=str(original.parent / "config"))
    assert_equal_states(settings.load(), states(Settings(path=str(folders["sd15"])).load()))
    assert_same_shapes_without_weights(settings)
    halved = settings.model_copy(update={"dtype": "bfloat16"}).load()
    assert halved.dtype == torch.bfloat16


def test_a_single_file_may_hold_the_denoiser_alone(folders: PipelineFolders, tmp_path: Path) -> None:
    expected = states(Settings(path=str(folders["sdxl"])).load())
    pipe = pipeline(folders["sdxl"])
    original = {name: value.contiguous() for name, value in original_unet(pipe.unet).items()}
    save_file(original, tmp_path / "original.safetensors")
    save_file(pipe.unet.state_dict(), tmp_path / "diffusers.safetensors")
    for name in ("original", "diffusers"):
        settings = Settings(path=str(tmp_path / f"{name}.safetensors"), config=str(folders["sdxl"]))
        assert_equal_states(settings.load(), expected)
    with pytest.raises(UserError, match=r"diffusers.safetensors holds a denoiser alone; expected the folder"):
        Settings(path=str(tmp_path / "diffusers.safetensors")).load()


def test_text_encoders_that_the_file_lacks_are_in_the_folder(
    folders: PipelineFolders, original: Path, tmp_path: Path
) -> None:
    kept = {name: value for name, value in load_file(original).items() if "cond_stage_model" not in name}
    save_file(kept, tmp_path / "without.safetensors")
    settings = Settings(path=str(tmp_path / "without.safetensors"), config=str(folders["sd15"]))
    assert_equal_states(settings.load(), states(Settings(path=str(folders["sd15"])).load()))
    with pytest.raises(UserError, match=r"without.safetensors cannot be opened with the configurations of"):
        settings.model_copy(update={"config": str(original.parent / "config")}).load()


def test_single_files_that_cannot_be_opened_are_refused(
    folders: PipelineFolders, original: Path, tmp_path: Path
) -> None:
    config = str(original.parent / "config")
    for path in ("model.ckpt", "somebody/model.ckpt"):
        with pytest.raises(UserError, match=f"{path} is a pickle, .*; expected a .safetensors file"):
            Settings(path=path, config=config).load()
    with pytest.raises(UserError, match=r"teacher.path: absent.safetensors: no such file"):
        Settings(path="absent.safetensors", config=config).meta()
    with pytest.raises(UserError, match=r"teacher.config: is given beside .*sd15; expected null"):
        Settings(path=str(folders["sd15"]), config=config).load()
    with pytest.raises(UserError, match=r"teacher.config: .* holds no model_index.json"):
        Settings(path=str(original), config=str(tmp_path)).load()
    kept = {name: value for name, value in load_file(original).items() if not name.endswith("out.2.weight")}
    save_file(kept, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"cut.safetensors .*: it lacks weights that they describe"):
        Settings(path=str(tmp_path / "cut.safetensors"), config=config).load()
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken.safetensors: is broken or no safetensors file"):
        Settings(path=str(tmp_path / "broken.safetensors"), config=config).load()


def test_students_of_a_single_file_are_exported(original: Path, tmp_path: Path) -> None:
    settings = Settings(path=str(original), config=str(original.parent / "config"))
    full = FewStepGenerator(settings.load(), 2.5)
    adapted = LoRA(rank=2).build(settings.load(), 2.5)
    for name, generator in (("full", full), ("adapted", adapted)):
        for parameter in generator.parameters():
            if parameter.requires_grad or name == "full":
                parameter.data.add_(0.02 * torch.randn_like(parameter))
        (tmp_path / name).mkdir()
        export_generator(generator, tmp_path / name)
        z = torch.randn(2, *generator.noise_shape)
        ours = image_of_ours(generator, z)
        again = image_of_ours(distill.load_generator(tmp_path / name), z)
        torch.testing.assert_close(again, ours, rtol=0, atol=1e-5)
    original.unlink()
    z = torch.randn(2, *full.noise_shape)
    images = image_of_diffusers(tmp_path / "full", z)
    torch.testing.assert_close(images, image_of_ours(full, z), rtol=0, atol=1e-5)
