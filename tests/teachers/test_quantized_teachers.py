"""Quantised teachers: near, frozen, shared by adapters, and refused where they cannot be.

torchao and gguf are optional. Without them the tests that quantise are skipped.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import distill
from distill.config.errors import UserError
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.publishing.export import export_generator
from distill.storage.tensors import weights_sha256
from distill.students import copy, lora
from distill.teachers.diffusers import Settings
from distill.training.config import read_config
from tests.helpers.diffusers_inputs import PipelineFolders, condition, noise, transformer
from tests.helpers.diffusers_runs import image_of_ours, make_inputs
from tests.helpers.runs import train_run, write_run

needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs gguf")
pytestmark = pytest.mark.filterwarnings("ignore")  # torchao's own, at its import

TORCHAO = {"name": "torchao"}


def predict(network: Any, x_t: torch.Tensor) -> torch.Tensor:
    t = torch.full((len(x_t),), 500.0)
    return network(x_t, t, condition(network))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def quantized(folder: Path, **settings: Any) -> DiffusersNetwork:
    return Settings.model_validate({"path": str(folder), "quantization": TORCHAO, **settings}).load()


@needs_torchao
def test_each_weight_is_within_half_a_step_of_int8(folders: PipelineFolders) -> None:
    """A row w is stored as whole multiples n of a step max|w| / 127, with |w - n step| <= step / 2."""
    plain = Settings(path=str(folders["sd15"])).load()
    weights = dict(plain.network.named_parameters())
    count = 0
    for name, value in quantized(folders["sd15"]).network.named_parameters():
        if hasattr(value, "qdata"):
            count += 1
            step = weights[name].abs().amax(1, keepdim=True) / 127
            assert ((value.dequantize() - weights[name]).abs() <= 0.51 * step).all(), name
        else:
            assert torch.equal(value, weights[name]), name
    assert count > 10


@needs_torchao
@pytest.mark.parametrize(("weights", "bound"), [("int8", 0.01), ("float8", 0.05)])
def test_predictions_and_gradients_are_near(folders: PipelineFolders, weights: str, bound: float) -> None:
    plain = Settings(path=str(folders["sd15"])).load()
    teacher = quantized(folders["sd15"], quantization={**TORCHAO, "weights": weights})
    x_t = noise(plain).requires_grad_()
    predictions = [predict(network, x_t) for network in (teacher, plain)]
    gradients = [torch.autograd.grad(found.square().sum(), x_t)[0] for found in predictions]
    assert 0 < relative_error(*predictions) < bound
    assert 0 < relative_error(*gradients) < bound
    assert teacher.dtype == torch.float32
    assert weights_sha256(teacher) != weights_sha256(plain)
    again = quantized(folders["sd15"], quantization={**TORCHAO, "weights": weights})
    assert weights_sha256(teacher) == weights_sha256(again)


@needs_torchao
def test_adapters_share_the_quantised_base_and_are_exported(folders: PipelineFolders, tmp_path: Path) -> None:
    teacher = quantized(folders["sd15"])
    generator = lora.Student(rank=2).build(teacher, 2.5)
    fake = lora.FakeScore(rank=2).build(teacher, generator)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = teacher.network.get_submodule(name).weight
    for network in (generator.denoiser.network, fake.network):
        assert network.get_submodule(name).get_base_layer().weight is weight
    x_t = noise(teacher)
    assert torch.equal(predict(fake, x_t), predict(teacher, x_t))
    for parameter in generator.denoiser.adapters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    (tmp_path / "export").mkdir()
    export_generator(generator, tmp_path / "export")
    z = torch.randn(2, *generator.noise_shape)
    opened = distill.load_generator(tmp_path / "export")
    assert opened.denoiser.is_quantized
    assert torch.equal(image_of_ours(opened, z), image_of_ours(generator, z))


@needs_torchao
def test_adapters_are_merged_into_the_weights_before_quantisation(
    folders: PipelineFolders, tmp_path: Path
) -> None:
    """DiT's pipeline loads no adapters, so that its student is exported whole."""
    student = lora.Student(rank=2).build(quantized(folders["dit"]), 2.5)
    plain = lora.Student(rank=2).build(Settings(path=str(folders["dit"])).load(), 2.5)
    for parameter in student.denoiser.adapters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    plain.load_state_dict(student.state_dict())
    (tmp_path / "export").mkdir()
    export_generator(student, tmp_path / "export")
    z = torch.randn(2, *student.noise_shape)
    opened = distill.load_generator(tmp_path / "export")
    assert not opened.denoiser.is_quantized
    torch.testing.assert_close(image_of_ours(opened, z), image_of_ours(plain, z), rtol=0, atol=1e-5)


@needs_torchao
def test_a_pipeline_that_was_saved_quantised_is_opened_so(folders: PipelineFolders, tmp_path: Path) -> None:
    teacher = quantized(folders["sd15"])
    teacher.pipeline.pipe.save_pretrained(tmp_path / "saved")
    settings = Settings(path=str(tmp_path / "saved"))
    assert (settings.stored_quantization, settings.is_quantized) == ("torchao", True)
    x_t = noise(teacher)
    assert torch.equal(predict(settings.load(), x_t), predict(teacher, x_t))
    with pytest.raises(UserError, match="saved is quantised already, by torchao; expected null"):
        quantized(tmp_path / "saved")
    config = tmp_path / "saved" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"torchao"', '"quanto"'))
    with pytest.raises(UserError, match="saved is quantised by quanto; expected bitsandbytes, torchao or no"):
        settings.load()


@needs_gguf
def test_a_gguf_file_holds_a_denoiser_in_blocks(folders: PipelineFolders, tmp_path: Path) -> None:
    import gguf

    plain = transformer(folders, "flux")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "flux.gguf", "flux")
    quantised = 0
    for name, value in plain.network.state_dict().items():
        if value.ndim == 2 and value.shape[1] % 32 == 0 and "block" in name:
            quantised += 1
            writer.add_tensor(name, gguf.quants.quantize(value.numpy(), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings = Settings(path=str(tmp_path / "flux.gguf"), config=str(folders["flux"]), resolution=16)
    teacher = settings.load()
    assert quantised > 0
    assert teacher.is_quantized
    x_t, t = noise(plain), torch.full((2,), 0.5)
    cond = condition(plain)
    found, expected = teacher(x_t, t, cond), plain(x_t, t, cond)
    assert 0 < relative_error(found, expected) < 0.01
    adapted = lora.FakeScore(rank=2).build(teacher, lora.Student(rank=2).build(teacher, 1e4))
    assert torch.equal(adapted(x_t, t, cond), found)
    assert len(weights_sha256(teacher)) == 64
    with pytest.raises(
        UserError, match=r"flux.gguf holds a denoiser alone; expected the folder of its pipeline"
    ):
        Settings(path=str(tmp_path / "flux.gguf")).load()


@needs_torchao
def test_a_run_of_adapters_trains_on_a_quantised_base(tmp_path: Path) -> None:
    root = make_inputs(tmp_path)
    config = {
        **{"task": "distill", "run_dir": str(root / "run"), "device": "cpu", "precision": "bf16"},
        **{"steps": 2, "batch_size": 2, "log_every": 1, "checkpoint_every": 2, "monitor_every": None},
        "teacher": {"name": "diffusers", "path": str(root / "sd15"), "quantization": TORCHAO},
        "prompts": {"name": "text_file", "path": str(root / "prompts.txt")},
        "generator": {"network": {"name": "lora", "rank": 2}},
        "fake": {"network": {"name": "lora", "rank": 2}},
        "objective": {"name": "score_matching"},
    }
    run = train_run(write_run(root, **config))
    generator = distill.load_generator(run)
    assert generator.denoiser.is_quantized
    assert any(parameter.abs().max() > 0 for parameter in generator.denoiser.adapters())


def test_what_cannot_work_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    config = {
        **{"task": "distill", "run_dir": str(tmp_path / "run"), "steps": 2},
        "teacher": {"name": "diffusers", "path": "somebody/some-model", "quantization": TORCHAO},
        "generator": {"network": {"name": "lora"}},
        "fake": {"network": {"name": "lora"}},
        "objective": {"name": "score_matching"},
    }
    read_config(write_run(tmp_path, **config), [])
    refused: dict[str, dict[str, Any]] = {
        "generator.network: copy trains all weights": {"generator": {"network": {"name": "copy"}}},
        "fake.network: copy trains all weights": {"fake": {"network": {"name": "copy"}}},
        "sharding.strategy: does not go with": {"sharding": {"strategy": "full"}},
        "precision: bf16-true would cast": {"precision": "bf16-true"},
        "teacher.quantization": {"teacher": {**config["teacher"], "quantization": {"name": "gptq"}}},
    }
    for message, changes in refused.items():
        with pytest.raises(UserError, match=message):
            read_config(write_run(tmp_path, **{**config, **changes}), [])
    gguf = {"name": "diffusers", "path": "flux.gguf"}
    with pytest.raises(UserError, match=r"generator.network: copy trains all weights"):
        read_config(write_run(tmp_path, **{**config, "teacher": gguf, "generator": {}}), [])


@needs_torchao
def test_a_copy_of_a_quantised_teacher_is_refused(folders: PipelineFolders) -> None:
    with pytest.raises(UserError, match=r"generator.network: is a copy of a quantised teacher"):
        copy.Student().build(quantized(folders["sd15"]), 2.5)


def test_missing_packages_and_devices_are_named(
    folders: PipelineFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"bitsandbytes": object()}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found.get(name))
    with pytest.raises(
        UserError, match=r"torchao needs the package torchao; pip install '.\[quantization\]'"
    ):
        quantized(folders["sd15"])
    with pytest.raises(UserError, match="bitsandbytes needs a CUDA device, and there is none"):
        quantized(folders["sd15"], quantization={"name": "bitsandbytes", "bits": 8})


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (8, {"load_in_8bit": True, "load_in_4bit": False}),
        (4, {"load_in_8bit": False, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    ],
)
def test_diffusers_is_asked_for_the_bits_of_bitsandbytes(
    folders: PipelineFolders, monkeypatch: pytest.MonkeyPatch, bits: int, expected: dict[str, Any]
) -> None:
    """bitsandbytes needs a GPU: what diffusers is asked for stands in for what it does."""
    from diffusers import UNet2DConditionModel

    asked: dict[str, Any] = {}
    original = UNet2DConditionModel.from_pretrained

    def opened(*args: Any, quantization_config: Any, **settings: Any) -> Any:
        asked.update(quantization_config.to_dict(), dtype=settings["dtype"])
        return original(*args, **settings)

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: object() if name == "bitsandbytes" else find(name)
    )
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.46.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", opened)
    quantized(folders["sd15"], quantization={"name": "bitsandbytes", "bits": bits}, dtype="bfloat16")
    assert asked.items() >= {**expected, "dtype": torch.bfloat16}.items()
