"""Opening a pipeline of diffusers as a teacher: its scheduler, its parts, its files, and its shapes alone."""

from __future__ import annotations

import functools
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distill.config.errors import UserError
from distill.diffusion.schedules import DDPM, Flow
from distill.networks.diffusers.pipeline import check_parts
from distill.networks.diffusers.scheduler import read_scheduler, read_shift
from distill.teachers.diffusers import Settings
from tests.helpers import latent_layouts, tiny_pipelines
from tests.helpers.diffusers_families import FURTHER
from tests.helpers.diffusers_inputs import PROMPTS, PipelineFolders


def test_schedulers_say_schedule_and_prediction() -> None:
    import diffusers

    schedule, prediction = read_scheduler(
        diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", **tiny_pipelines.BETAS)
    )
    assert isinstance(schedule, DDPM)
    assert (prediction, schedule.t_max) == ("v_prediction", 999.0)
    assert read_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)) == (Flow(), "flow_prediction")
    terminal, _ = read_scheduler(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, **tiny_pipelines.BETAS))
    assert terminal.alpha(torch.tensor(999.0)).item() == pytest.approx(2.0**-12, rel=1e-4)
    with pytest.raises(UserError, match="scheduler KarrasVeScheduler is unknown here"):
        read_scheduler(diffusers.KarrasVeScheduler())
    with pytest.raises(UserError, match="prediction_type 'learned' is unknown here"):
        read_scheduler(diffusers.DDIMScheduler(prediction_type="learned"))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("tokens", [256, 1024, 9216])
def test_a_scheduler_s_shift_is_what_it_does_to_even_times(dynamic: bool, tokens: int) -> None:
    """The arithmetic of FLUX's pipeline, whose shift depends on the number of tokens."""
    import diffusers
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=dynamic)
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2], mu=calculate_shift(tokens))
    moved = Flow().shifted(torch.tensor([1.0, 0.6, 0.2]), read_shift(scheduler, tokens))
    torch.testing.assert_close(moved, scheduler.sigmas[:3])


@torch.no_grad()
def test_a_teacher_s_shift_depends_on_its_resolution(folders: PipelineFolders) -> None:
    """Sixteen tokens at 16 pixels, fewer than the 256 of the default shift, e^0.5."""
    teacher = Settings(path=str(folders["flux"]), resolution=16).load()
    assert isinstance(teacher.schedule, Flow)
    assert teacher.schedule.shift == pytest.approx(math.exp(0.5 + (16 - 256) * 0.65 / 3840))


FLOW = ("sd3", "flux", "sana", "lumina2", "z-image", "aura-flow", "cogview4", "flux2", "flux2-klein")
FLOW = (*FLOW, "qwen-image", "chroma", "hunyuan-image", "ovis-image", "longcat-image")


@pytest.mark.parametrize("family", FLOW)
@torch.no_grad()
def test_a_teacher_s_shift_is_that_of_its_pipeline_s_call(
    folders: PipelineFolders, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call gives its scheduler a number, where the shift depends on the size."""
    from diffusers import DiffusionPipeline

    class Begun(Exception):
        pass

    pipe = DiffusionPipeline.from_pretrained(folders[family])
    kind, given = type(pipe.scheduler), {}
    original = kind.set_timesteps

    @functools.wraps(original)
    def begin(scheduler: Any, *args: Any, **settings: Any) -> None:
        original(scheduler, *args, **settings)
        given.update(settings)
        raise Begun

    monkeypatch.setattr(kind, "set_timesteps", begin)
    teacher = Settings(path=str(folders[family])).load()
    z = torch.randn(1, *teacher.image_shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Begun):
        tiny_pipelines.call(pipe, z, ["a cat"], **latent_layouts.without_guidance(pipe))
    config = pipe.scheduler.config
    if config.get("use_dynamic_shifting"):
        moved = float(pipe.scheduler.time_shift(given["mu"], 1.0, torch.tensor(0.5, dtype=torch.float64)))
        expected = moved / (1 - moved)
    else:
        expected = config.get("shift") or config.get("flow_shift") or 1.0
    assert isinstance(teacher.schedule, Flow)
    assert teacher.schedule.shift == pytest.approx(expected)


def test_other_parts_are_refused_by_name(folders: PipelineFolders, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline, SanaSprintPipeline

    pipe = DiffusionPipeline.from_pretrained(folders["sd15"])
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(
        UserError, match="network of StableDiffusionPipeline has time_cond_proj_dim, which is unknown here"
    ):
        check_parts(pipe)
    pipe.vae = pipe.unet
    with pytest.raises(
        UserError, match="StableDiffusionPipeline's autoencoder, UNet2DConditionModel, is unknown here"
    ):
        check_parts(pipe)
    pipe.unet = pipe.text_encoder
    with pytest.raises(UserError, match="StableDiffusionPipeline's denoiser, CLIPTextModel, is unknown here"):
        check_parts(pipe)
    pipe = DiffusionPipeline.from_pretrained(folders["kolors"])
    pipe.unet.register_to_config(encoder_hid_dim_type="image_proj")
    with pytest.raises(
        UserError,
        match="encoder_hid_dim_type 'image_proj' of KolorsPipeline is unknown here; expected none or",
    ):
        check_parts(pipe)
    with pytest.raises(
        UserError, match=r"SanaSprintPipeline is distilled itself.*; expected one of the pipelines"
    ):
        check_parts(SanaSprintPipeline.__new__(SanaSprintPipeline))
    other = SimpleNamespace(unet=None, transformer=SimpleNamespace())
    with pytest.raises(
        UserError,
        match=r"SimpleNamespace's denoiser, SimpleNamespace, is unknown here; expected one of: UNet2DModel",
    ):
        check_parts(other)
    pipe = DiffusionPipeline.from_pretrained(folders["flux"])
    pipe.transformer.register_to_config(in_channels=96)
    with pytest.raises(
        UserError, match="FluxPipeline's network takes 96 channels; expected 16, as its images have"
    ):
        check_parts(pipe)
    with pytest.raises(
        UserError, match=r"holds no model_index.json; expected the folder of a diffusers pipeline"
    ):
        Settings(path=str(tmp_path)).load()
    with pytest.raises(
        UserError, match=r"holds no model_index.json; expected the folder of a diffusers pipeline"
    ):
        Settings(path=str(tmp_path)).meta()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"the configurations of .* cannot be read as a diffusers pipeline's"):
        Settings(path=str(tmp_path)).meta()


@pytest.mark.parametrize(
    "family",
    ["labels", "sdxl", "kolors", "pixart-sigma", "sd3", "flux", "flux2-klein", "sana", *FURTHER],
)
def test_an_outline_needs_neither_weights_nor_tokenizers(
    folders: PipelineFolders, family: str, tmp_path: Path
) -> None:
    shutil.copytree(
        folders[family], tmp_path / "outline", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer*")
    )
    teacher, meta = (
        Settings(path=str(folders[family])).load(),
        Settings(path=str(tmp_path / "outline")).meta(),
    )
    sizes = {name: tuple(value.shape) for name, value in teacher.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in meta.state_dict().items()} == sizes
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert (meta.image_shape, meta.schedule) == (teacher.image_shape, teacher.schedule)
    assert meta.frozen_components().keys() == teacher.frozen_components().keys()
    if teacher.takes_text:
        text = teacher.encode_prompts(PROMPTS).text
        assert text is not None
        # A tiny CLIP has 16 tokens, where that of all pipelines has 77.
        clip = 61 if family in ("sdxl", "sd3") else 0
        shapes = {name: tuple(value.shape[1:]) for name, value in text.given.items()}
        assert meta.prompt_encoder.shapes() == {
            **shapes,
            "tokens": (shapes["tokens"][0] + clip, shapes["tokens"][1]),
        }


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", [859_520_964, 83_653_863, 123_060_480]),
        ("stabilityai/stable-diffusion-xl-base-1.0", [2_567_463_684, 83_653_863, 123_060_480, 694_659_840]),
    ],
)
def test_the_published_pipelines_are_of_the_published_sizes(name: str, sizes: list[int]) -> None:
    meta = Settings(path=name).meta()
    parts = [meta.network, *meta.frozen_components().values()]
    assert [sum(parameter.numel() for parameter in part.parameters()) for part in parts] == sizes


@pytest.mark.parametrize(
    ("name", "billions", "tokens"),
    [
        ("Tongyi-MAI/Z-Image", 6.15, (512, 2560)),
        ("Alpha-VLLM/Lumina-Image-2.0", 2.6, (256, 2304)),
        ("THUDM/CogView4-6B", 6.4, (1024, 4096)),
        ("fal/AuraFlow-v0.3", 6.8, (256, 2048)),
        ("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", 1.5, (77, 1024)),
        ("stabilityai/stable-diffusion-3.5-large", 8.1, (333, 4096)),
        ("stabilityai/stable-diffusion-3.5-medium", 2.24, (333, 4096)),
        ("Efficient-Large-Model/Sana_1600M_1024px_diffusers", 1.6, (300, 2304)),
        ("Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers", 1.6, (300, 2304)),
        ("Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers", 4.8, (300, 2304)),
    ],
)
def test_further_published_networks_are_of_the_published_sizes(
    name: str, billions: float, tokens: tuple[int, ...]
) -> None:
    """All are pipelines of 1024 pixels, whose encoders are on the meta device too."""
    meta = Settings(path=name).meta()
    parameters = [parameter for part in meta.frozen_components().values() for parameter in part.parameters()]
    assert all(parameter.is_meta for parameter in parameters)
    assert sum(parameter.numel() for parameter in meta.parameters()) == pytest.approx(
        1e9 * billions, rel=0.02
    )
    assert meta.pixel_shape == (3, 1024, 1024)
    assert meta.prompt_encoder is not None
    assert meta.prompt_encoder.shapes()["tokens"] == tokens


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("black-forest-labs/FLUX.2-dev", (32.2, 24.0)),
        ("black-forest-labs/FLUX.2-klein-base-4B", (3.9, 4.0)),
        ("black-forest-labs/FLUX.2-klein-base-9B", (9.1, 8.2)),
        ("Qwen/Qwen-Image", (20.4, 8.3)),
        ("lodestones/Chroma1-HD", (8.9, 4.8)),
        ("AIDC-AI/Ovis-Image-7B", (7.4, 1.7)),
        ("meituan-longcat/LongCat-Image", (6.3, 8.3)),
        ("kandinskylab/Kandinsky-5.0-T2I-Lite-sft-Diffusers", (6.0, 8.3)),
        ("hunyuanvideo-community/HunyuanImage-2.1-Diffusers", (17.4, 8.3)),
    ],
)
def test_published_networks_and_text_encoders_have_their_billions_of_parameters(
    name: str, sizes: tuple[float, float]
) -> None:
    meta = Settings(path=name).meta()
    parts = (meta.network, meta.frozen_components()["text_encoder"])
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert tuple(round(count / 1e9, 1) for count in counts) == sizes
    size = 2048 if "Hunyuan" in name else 1024
    assert meta.pixel_shape == (3, size, size)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_in_a_pickle_are_refused(tmp_path: Path, part: str) -> None:
    folder = tiny_pipelines.stable_diffusion(tmp_path / "teacher")
    weights = next((folder / part).glob("*.safetensors"))
    torch.save(
        load_file(weights),
        weights.with_name("pytorch_model.bin" if part == "text_encoder" else f"{weights.stem}.bin"),
    )
    weights.unlink()
    with pytest.raises(
        UserError, match=f"cannot be opened as a diffusers pipeline .*no file named {weights.name}"
    ):
        Settings(path=str(folder)).load()
