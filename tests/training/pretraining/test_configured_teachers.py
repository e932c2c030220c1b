"""Teachers of the classes of diffusers are trained from configurations and exported as pipelines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import distill
import sample
from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.images import save_samples_picture, to_bytes
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_teacher
from distill.networks.diffusers.configured import ConfiguredNetwork
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.parts import build_pipeline
from distill.networks.diffusers.source import PipelineSettings
from distill.networks.folder import checkpoints, load_denoiser
from distill.training.batches import Batch
from distill.training.config import read_config
from distill.training.dry_run.step import meta_teacher_of
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.pretraining.teacher import TeacherTraining, denoising_loss
from distill.training.settings import TrainTeacherRun
from distill.types import Condition
from tests.helpers import tiny_flow_pipelines
from tests.helpers.configured_pipelines import SCHEDULER, UNET, make_parts, text_to_image
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    refusal,
    train_in_processes,
    train_run,
    write_run,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def run(root: Path) -> Path:
    """Train a text-to-image teacher, and return the run's folder."""
    return train_run(write_run(root, **text_to_image(root, run_dir=str(root / "run"))))


def training(root: Path, folder: Path, **changes: Any) -> TeacherTraining:
    """Build the training of a text-to-image teacher."""
    config = read_config(write_run(folder, **text_to_image(root, **changes)))
    assert isinstance(config, TrainTeacherRun)
    return TeacherTraining(config, build_processes(config), Clock(torch.device("cpu")))


@pytest.mark.parametrize("source", ["--run={run}", "--teacher={run}/export"])
def test_a_text_teacher_is_sampled_from_its_run_and_its_export(
    run: Path, tmp_path: Path, source: str
) -> None:
    options = f"--n=2 --steps=2 --guidance=3 --device=cpu --out={tmp_path / 'out'}".split()
    sample.main([source.format(run=run), "--prompts=a red square", *options])
    noted = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert (noted["teacher"], noted["evaluations"], noted["sampler"]["guidance"]) == (True, 3, 3.0)
    assert [image["prompt"] for image in noted["images"]] == ["a red square"] * 2
    network = load_denoiser(run)
    assert network.prompt_encoder is not None
    cond = EncodedPrompts.by(network.prompt_encoder, ["a red square"]).balanced(2)
    expected = to_bytes(sample_teacher(network.eval(), [0, 1], cond, Heun(steps=2, guidance=3)))
    for index in range(2):
        found = np.asarray(Image.open(tmp_path / "out" / f"{index:06d}.png"))
        assert np.array_equal(found, expected[index].permute(1, 2, 0))


def test_a_text_teacher_shows_the_prompts_that_are_asked_for(root: Path, tmp_path: Path) -> None:
    preview = {"prompts": ["a red square", "two cats, asleep"], "count": 4, "seed": 3}
    run = train_run(
        write_run(tmp_path, **text_to_image(root, run_dir=str(tmp_path / "run"), preview=preview))
    )
    network = load_denoiser(run)
    assert network.prompt_encoder is not None
    cond = EncodedPrompts.by(network.prompt_encoder, preview["prompts"]).balanced(4)  # type: ignore[arg-type]
    samples = sample_teacher(network.eval(), range(3, 7), cond)
    save_samples_picture(samples, tmp_path / "expected.png", condition_count=2)
    newest = max((run / "samples").glob("step-*.png"))
    found, expected = (np.asarray(Image.open(path)) for path in (newest, tmp_path / "expected.png"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@torch.no_grad()
def test_diffusers_opens_the_export_with_the_averaged_weights(run: Path) -> None:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(run / "export")
    average = load_denoiser(checkpoints(run)[-1])
    assert isinstance(average, ConfiguredNetwork)
    tokens = pipe.encode_prompt("a cat", "cpu", 1, False)[0]
    x_t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    output = pipe.unet(x_t, timestep=torch.tensor([500]), encoder_hidden_states=tokens).sample
    cond = average.encode_prompts(["a cat"])
    expected = average._run(x_t, torch.tensor([500.0]), cond)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    trained = load_trained(run)
    assert not torch.equal(pipe.unet.conv_in.weight, trained)
    assert dict(pipe.scheduler.config)["prediction_type"] == "v_prediction"


def load_trained(run: Path) -> Tensor:
    """Return a weight of the network that is not averaged."""
    return checkpoint_tensors(run)["teacher.safetensors:network.conv_in.weight"]


@torch.no_grad()
def test_the_export_opens_as_a_teacher_of_diffusers_and_by_the_name_of_its_run(run: Path) -> None:
    from distill.teachers.diffusers import Settings

    x_t, t = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 700.0])
    teachers = [Settings(path=str(run / "export")).load(), distill.load_teacher(run)]
    cond = teachers[0].encode_prompts(["a cat", "dog"])
    assert torch.equal(teachers[0](x_t, t, cond), teachers[1](x_t, t, cond))


def test_prompts_have_the_number_of_tokens_of_their_tokenizer(run: Path) -> None:
    encoder = distill.load_teacher(run).prompt_encoder
    assert encoder is not None
    assert encoder.shapes() == {"tokens": (16, 16)}
    text = encoder.encode(["a cat"]).text
    assert text is not None
    assert text.given["tokens"].shape == (1, 16, 16)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_the_output_at_noise_of_the_scheduler(root: Path, prediction: str) -> None:
    """The squared error of x_0, weighted, is that of the output, which diffusers' trainers minimise."""
    import diffusers

    settings = {**SCHEDULER, "prediction_type": prediction, "rescale_betas_zero_snr": False}
    pipeline = text_to_image(root)["pipeline"]
    network = ConfiguredNetwork.build(
        PipelineSettings.model_validate({**pipeline, "scheduler": settings}), seed=3
    )
    scheduler = diffusers.DDIMScheduler(**{name: settings[name] for name in settings if name != "class_name"})
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    steps, cond = torch.tensor([20, 400, 900]), network.encode_prompts(["a", "b", "c"])
    batch = Batch(z=x0, cond=cond, u=steps / 999, eps=eps, u_fake=steps / 999, eps_fake=eps, real=x0)
    levels = read_uniform()
    loss = denoising_loss(network, batch, levels)
    x_t = scheduler.add_noise(x0, eps, steps)
    output = network._run(x_t, steps.float(), cond)
    target = eps if prediction == "epsilon" else scheduler.get_velocity(x0, eps, steps)
    torch.testing.assert_close(loss, (output - target).square().mean(), rtol=1e-4, atol=1e-5)


def read_uniform() -> Any:
    from distill.diffusion.noise_levels import Uniform

    return Uniform()


def test_captions_are_dropped_at_the_rate_of_the_labels_and_drawn_for_their_images(
    root: Path, tmp_path: Path
) -> None:
    task = training(root, tmp_path, batch_size=64, label_dropout=0.5)
    task.start(0)
    text = next(task.stream).cond.text
    assert text is not None
    unconditional = (text.given["tokens"] == text.unconditional["tokens"]).flatten(1).all(1)
    assert unconditional.tolist() == [prompt == "" for prompt in text.prompts]
    assert 16 < unconditional.sum() < 48
    assert {"a cat", "dog x"} < set(text.prompts)
    batches = training(root, tmp_path, batch_size=64, label_dropout=0.0)
    batches.start(0)
    kept = next(batches.stream).cond.text
    assert kept is not None
    assert "" not in kept.prompts


def test_an_interrupted_run_ends_to_the_bit_as_one_that_was_not(
    root: Path, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(checkpoints(tmp_path / "run")[-1])
    shutil.rmtree(tmp_path / "run" / "export")
    again = train_run(write_run(tmp_path, **text_to_image(root, run_dir=str(tmp_path / "run"))))
    assert_same_tensors(checkpoint_tensors(again), checkpoint_tensors(run))
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (again / "export" / weights).read_bytes() == (run / "export" / weights).read_bytes()


def test_a_run_begins_with_the_weights_of_another(root: Path, run: Path) -> None:
    pipeline = {**text_to_image(root)["pipeline"], "init_from": str(run)}
    begun = ConfiguredNetwork.build(PipelineSettings.model_validate(pipeline))
    exported = distill.load_teacher(run).state_dict()
    assert_same_tensors(begun.state_dict(), exported)


def test_classes_of_diffusers_in_pixels_are_trained_with_labels(tmp_path: Path) -> None:
    denoiser = {
        "class_name": "UNet2DModel",
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
        "num_class_embeds": 11,
    }
    pipeline = {
        "class_name": "DDPMPipeline",
        "denoiser": denoiser,
        "scheduler": {"class_name": "DDPMScheduler"},
    }
    settings = {"task": "train_teacher", "data": {"name": "digits"}, "label_dropout": 0.1, "steps": 1}
    file = write_run(tmp_path, **settings, pipeline={**pipeline, "null_label": 10})
    teacher = distill.load_teacher(train_run(file))
    assert (teacher.image_shape, teacher.label_count) == ((1, 8, 8), 10)
    teacher.require_unconditional()
    other = write_run(tmp_path, **settings, pipeline=pipeline, run_dir=str(tmp_path / "other"))
    assert "data: 10 labels; expected 11 as the network's" in refusal(other)


def test_a_transformer_of_few_classes_opens_in_diffusers(root: Path, tmp_path: Path) -> None:
    """It has a class for no label; the pipeline of diffusers takes 1000 for it, so it is called unguided."""
    from diffusers import DiffusionPipeline

    images = np.random.default_rng(0).integers(0, 255, (10, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "labelled.npz", images=images, labels=np.arange(10) % 5)
    denoiser = {
        "class_name": "DiTTransformer2DModel",
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "sample_size": 8,
        "norm_num_groups": 4,
        "num_embeds_ada_norm": 5,
    }
    pipeline = {
        "class_name": "DiTPipeline",
        "denoiser": denoiser,
        "scheduler": {"class_name": "DDIMScheduler", "clip_sample": False},
        "parts": {"vae": str(root / "vae")},
    }
    data = {"name": "array", "path": str(tmp_path / "labelled.npz")}
    file = write_run(tmp_path, **text_to_image(root, data=data, pipeline=pipeline, monitor_every=None))
    run = train_run(file)
    teacher = distill.load_teacher(run)
    assert isinstance(teacher, DiffusersNetwork)
    assert (teacher.label_count, teacher.pipeline.null_label) == (5, 5)
    pipe = DiffusionPipeline.from_pretrained(run / "export")
    pipe.set_progress_bar_config(disable=True)
    assert_same_tensors(pipe.transformer.state_dict(), teacher.network.state_dict())
    made = pipe([0, 4], guidance_scale=1.0, num_inference_steps=2, output_type="np").images
    assert made.shape == (2, 16, 16, 3)


REFUSED = {
    "pipeline": ({"class_name": "StableDifusionPipeline"}, "did you mean 'StableDiffusionPipeline'?"),
    "denoiser": (
        {"denoiser": {**UNET, "class_name": "UNet2DConditonModel"}},
        "did you mean 'UNet2DCondition",
    ),
    "denoiser of another pipeline": (
        {"denoiser": {"class_name": "UNet2DModel"}},
        "pipeline.denoiser.class_name: is UNet2DModel; expected UNet2DConditionModel, which",
    ),
    "key": (
        {"denoiser": {**UNET, "sampel_size": 8}},
        "pipeline.denoiser: UNet2DConditionModel has no setting 'sampel_size'; did you mean 'sample_size'?",
    ),
    "value": ({"denoiser": {**UNET, "block_out_channels": [8]}}, "pipeline.denoiser: Must provide the same"),
    "text": (
        {"denoiser": {**UNET, "cross_attention_dim": "16"}},
        "pipeline.denoiser.cross_attention_dim: is the text '16'; expected ",
    ),
    "no size": (
        {"denoiser": {**UNET, "sample_size": None}},
        "pipeline.denoiser.sample_size: is null; expected the side of the images that the denoiser takes",
    ),
    "size": (
        {"denoiser": {**UNET, "sample_size": 8.0}},
        "pipeline.denoiser.sample_size: is 8.0; expected the side",
    ),
    "pass": ({"denoiser": {**UNET, "sample_size": 7}}, "data: images of (3, 16, 16); expected (3, 14, 14)"),
    "scheduler": (
        {"scheduler": {**SCHEDULER, "class_name": "DDIMSheduler"}},
        "pipeline.scheduler.class_name: 'DDIMSheduler' is not in diffusers; did you mean 'DDIMScheduler'?",
    ),
    "scheduler's key": (
        {"scheduler": {**SCHEDULER, "predicton_type": "epsilon"}},
        "pipeline.scheduler: DDIMScheduler has no setting 'predicton_type'; did you mean 'prediction_type'?",
    ),
    "another kind": (
        {"scheduler": {"class_name": "SchedulerMixin"}},
        "pipeline.scheduler.class_name: 'SchedulerMixin' of diffusers is of another kind; did you mean ",
    ),
    "scheduler of flow matching": (
        {"scheduler": {"class_name": "FlowMatchEulerDiscreteScheduler"}},
        "is FlowMatchEulerDiscreteScheduler, by which StableDiffusionPipeline cannot sample; expected one of",
    ),
    "scheduler that cannot sample": (
        {"scheduler": {**SCHEDULER, "timestep_spacing": "tail"}},
        "pipeline.scheduler: tail is not supported",
    ),
    "scheduler of one step": (
        {"scheduler": {"class_name": "DDPMScheduler", "num_train_timesteps": 1}},
        "pipeline.scheduler: ",
    ),
    "scheduler that adds no noise": (
        {
            "scheduler": {
                "class_name": "DDPMScheduler",
                "beta_start": 0,
                "beta_end": 0,
                "steps_offset": 1,
                "clip_sample": False,
            }
        },
        "pipeline: DDPMScheduler: alphas_cumprod: expected to fall strictly, within (0, 1)",
    ),
    "null label": ({"null_label": 3}, "pipeline.null_label: is 3; expected null: the network has no classes"),
    "channels": (
        {"denoiser": {**UNET, "in_channels": 8}},
        "pipeline.denoiser.in_channels: is 8; expected 4, as many as the latents of pipeline.parts.vae have",
    ),
    "width": (
        {"denoiser": {**UNET, "cross_attention_dim": 24}},
        "pipeline: its text encoders give tokens of 16 numbers; expected 24",
    ),
}


def test_channels_are_counted_as_the_network_counts_them(tmp_path: Path) -> None:
    """Qwen-Image takes packed latents, and says by `out_channels` how many they have before."""
    folder = tiny_flow_pipelines.qwen_image(tmp_path / "parts")
    denoiser = {
        "class_name": "QwenImageTransformer2DModel",
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "joint_attention_dim": 8,
        "axes_dims_rope": [4, 2, 2],
    }
    settings = {
        "class_name": "QwenImagePipeline",
        "scheduler": {"class_name": "FlowMatchEulerDiscreteScheduler"},
        "parts": dict.fromkeys(("vae", "text_encoder", "tokenizer"), folder),
    }
    ConfiguredNetwork.build(PipelineSettings(**settings, denoiser=denoiser), on_meta=True).check_pass()
    of_latents = "as many as the latents of pipeline.parts.vae have"
    refused = {
        "in_channels": (4, f"is 4; expected 16, {of_latents} in squares of 2x2"),
        "out_channels": (16, f"is 16; expected 4, {of_latents}"),
    }
    for name, (number, message) in refused.items():
        with pytest.raises(UserError, match=f"^pipeline.denoiser.{name}: {message}$"):
            build_pipeline(PipelineSettings(**settings, denoiser={**denoiser, name: number}))


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_go_together_are_refused(
    root: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    pipeline = {**text_to_image(root)["pipeline"], **change}
    assert message in refusal(write_run(tmp_path, **text_to_image(root, pipeline=pipeline)))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_refuses_what_fails_in_a_pass(root: Path, tmp_path: Path) -> None:
    pipeline = {**text_to_image(root)["pipeline"], "denoiser": {**UNET, "layers_per_block": 0}}
    config = read_config(write_run(tmp_path, **text_to_image(root, pipeline=pipeline)))
    assert isinstance(config, TrainTeacherRun)
    with pytest.raises(UserError, match=r"pipeline.denoiser: Expected weight to be a vector"):
        meta_teacher_of(config)


def test_missing_parts_and_folders_are_refused(root: Path, tmp_path: Path) -> None:
    pipeline = text_to_image(root)["pipeline"]
    parts = pipeline["parts"]
    changes = {
        "needs text_encoder and tokenizer; expected text_encoder: FOLDER": {"vae": parts["vae"]},
        "has no part 'vea'; did you mean 'vae'?": {**parts, "vea": parts["vae"]},
        "pipeline.parts.vae: nowhere: no such folder; expected one that holds AutoencoderKL": {
            **parts,
            "vae": "nowhere",
        },
        "holds CLIPTextModel; expected AutoencoderKL": {**parts, "vae": parts["text_encoder"]},
        "vae holds no vocab.json or merges.txt": {**parts, "tokenizer": parts["vae"]},
        "pipeline.parts.tokenizer: is null; expected that of the text_encoder": {**parts, "tokenizer": None},
        "pipeline.parts: has no text encoder; expected at least one": {**parts, "text_encoder": None},
    }
    for message, changed in changes.items():
        file = write_run(tmp_path, **text_to_image(root, pipeline={**pipeline, "parts": changed}))
        assert message in refusal(file)
    assert not (tmp_path / "run").exists()


def test_data_without_captions_and_two_networks_are_refused(root: Path, tmp_path: Path) -> None:
    data = {"name": "array", "path": str(root / "images.npz")}
    assert "data: array has no captions" in refusal(write_run(tmp_path, **text_to_image(root, data=data)))
    both = write_run(tmp_path, **text_to_image(root, network={"width": 8}))
    assert "pipeline: is given beside 'network'; expected one of them" in refusal(both)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_train_the_weights_that_one_does(
    root: Path, run: Path, tmp_path: Path, sharding: str
) -> None:
    file = write_run(tmp_path, **text_to_image(root, monitor_protocol="fd-pixel", monitor_images=2))
    done = train_in_processes(file, f"--sharding.strategy={sharding}", processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    expected = distill.load_teacher(run).state_dict()
    for name, value in distill.load_teacher(tmp_path / "run").state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_a_condition_without_text_is_the_empty_prompt(root: Path) -> None:
    network = ConfiguredNetwork.build(PipelineSettings.model_validate(text_to_image(root)["pipeline"]))
    x_t, t = torch.randn(1, 4, 8, 8), torch.tensor([300.0])
    with torch.no_grad():
        assert torch.equal(network(x_t, t, Condition()), network(x_t, t, network.encode_prompts([""])))
