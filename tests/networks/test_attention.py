"""Attention backends of diffusers' networks: same results, clear refusals, no trace in runs and exports."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers  # noqa: F401 - which looks for xformers when it is imported
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from distill.config.errors import UserError
from distill.networks.diffusers import attention
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.folder import load_generator
from distill.publishing.export import export_generator
from distill.students.lora import Student as LoRA
from distill.teachers.diffusers import Settings
from distill.training.config import read_config
from distill.training.distillation.settings import TeacherSamplesSettings
from distill.training.distillation.teacher_samples import TeacherSamples
from distill.training.run_folder import open_run_folder, record_run
from distill.types import Condition, Denoiser
from tests.helpers import (
    tiny_flow_pipelines,
    tiny_kandinsky_pipelines,
    tiny_lumina_pipelines,
    tiny_pipelines,
    tiny_prompt_pipelines,
)
from tests.helpers.alone import ALONE
from tests.helpers.diffusers_runs import size_of

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "ddpm": tiny_pipelines.ddpm,
    "sdxl": tiny_pipelines.stable_diffusion_xl,
    "dit": tiny_pipelines.dit,
    "pixart": tiny_pipelines.pixart_sigma,
    "sd3": tiny_pipelines.stable_diffusion_3,
    "flux": tiny_pipelines.flux,
    "sana": tiny_pipelines.sana,
    "lumina2": tiny_lumina_pipelines.lumina2,
    "z-image": tiny_lumina_pipelines.z_image,
    "aura-flow": tiny_prompt_pipelines.aura_flow,
    "hunyuan-dit": tiny_prompt_pipelines.hunyuan_dit,
    "cogview4": tiny_prompt_pipelines.cogview4,
    "kolors": tiny_prompt_pipelines.kolors,
    "flux2": tiny_flow_pipelines.flux2,
    "qwen-image": tiny_flow_pipelines.qwen_image,
    "chroma": tiny_flow_pipelines.chroma,
    "hunyuan-image": tiny_flow_pipelines.hunyuan_image,
    "ovis-image": tiny_flow_pipelines.ovis_image,
    "longcat-image": tiny_flow_pipelines.longcat_image,
    "kandinsky5": tiny_kandinsky_pipelines.kandinsky5,
}


class XFormers:
    """xformers' attention by its definition, softmax(scale q k^T + bias) v with heads after tokens.

    It checks a bias as xformers' kernel does.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None, p: float, scale: float | None
    ) -> Tensor:
        self.calls += 1
        assert (p, q.dtype, k.dtype) == (0.0, v.dtype, v.dtype)
        scores = (q.shape[-1] ** -0.5 if scale is None else scale) * torch.einsum("bnhd,bmhd->bhnm", q, k)
        if attn_bias is not None:
            assert attn_bias.shape == scores.shape
            assert attn_bias.dtype == v.dtype
            assert all(stride % 8 == 0 for stride in attn_bias.stride()[:-1])
            scores = scores + attn_bias
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


class Counted(TorchFunctionMode):
    """Counts calls of PyTorch's attention."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func is scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.fixture
def xformers(monkeypatch: pytest.MonkeyPatch) -> XFormers:
    """Pretend that the package and a CUDA device are there."""
    computed, package, ops = XFormers(), ModuleType("xformers"), ModuleType("xformers.ops")
    ops.memory_efficient_attention = computed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return computed


def inputs(network: Denoiser) -> tuple[Tensor, Tensor, Condition]:
    x_t = torch.randn(2, *network.image_shape, generator=torch.Generator().manual_seed(0))
    text = (
        network.encode_prompts(["a", "abcdefg"])
        if network.takes_text
        else Condition(torch.tensor([1, 2]) if network.label_count else None)
    )
    return x_t, torch.tensor([0.3, 0.7]) * network.schedule.t_max, text


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_xformers_computes_the_same_in_every_family(family: str, tmp_path: Path, xformers: XFormers) -> None:
    """The families have masks (PixArt, Sana, Lumina 2), norms of queries and keys (SD 3.5), positions (FLUX).

    Sana's linear attention is left alone.
    """
    source = {
        "path": str(FAMILIES[family](tmp_path / "teacher")),
        **size_of(family),
    }
    plain, other = (Settings(**source, attention=name).load() for name in ("sdpa", "xformers"))
    for theirs, mine in zip(plain.network.modules(), other.network.modules(), strict=True):
        if hasattr(theirs, "processor"):
            assert isinstance(mine.processor, type(theirs.processor))
            assert inspect.signature(mine.processor.__call__) == inspect.signature(theirs.processor.__call__)
    given = inputs(plain)
    with Counted() as counted:
        expected = plain(*given)
    assert xformers.calls == 0
    with Counted() as left:
        torch.testing.assert_close(other(*given), expected, rtol=1e-5, atol=1e-5)
    assert xformers.calls == counted.calls > 0
    assert left.calls == 0


def test_copies_have_it_and_exports_do_not(tmp_path: Path, xformers: XFormers) -> None:
    """Copies and LoRA students use it; gradients are the same, also when the pass is recomputed."""
    folder = tiny_pipelines.stable_diffusion_xl(tmp_path / "teacher")
    plain, teacher = (Settings(path=str(folder), attention=name).load() for name in ("sdpa", "xformers"))
    arguments = inputs(plain)
    gradients = []
    for network, twice in ((plain, False), (copy.deepcopy(teacher), False), (copy.deepcopy(teacher), True)):
        network.requires_grad_(True)
        output: Any = checkpoint(network, *arguments, use_reentrant=False) if twice else network(*arguments)
        before = xformers.calls
        output.square().mean().backward()
        assert (xformers.calls > before) == twice
        gradients.append([parameter.grad for parameter in network.network.parameters()])
    assert xformers.calls > 0
    for mine in gradients[1:]:
        torch.testing.assert_close(mine, gradients[0], rtol=1e-4, atol=1e-6)
    before = xformers.calls
    lora = LoRA(rank=2).build(teacher, 80.0)
    with torch.no_grad():
        lora(arguments[0], arguments[2])
    assert xformers.calls > before
    (tmp_path / "export").mkdir()
    export_generator(FewStepGenerator(teacher, 80.0), tmp_path / "export")
    assert "xformers" not in (tmp_path / "export" / "config.json").read_text()
    before = xformers.calls
    with torch.no_grad():
        load_generator(tmp_path / "export")(arguments[0], arguments[2])
    assert xformers.calls == before


def test_flash_is_used_alone_if_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision without a mask uses FlashAttention only; PyTorch chooses for other calls."""
    allowed = []

    def look(*args: Any, **settings: Any) -> Tensor:
        cuda = torch.backends.cuda
        allowed.append(
            (
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.math_sdp_enabled(),
                cuda.cudnn_sdp_enabled(),
            )
        )
        return scaled_dot_product_attention(*args, **settings)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", look)
    q, k, v = torch.randn(3, 2, 4, 16, 8)
    mask = torch.zeros(2, 1, 1, 16)
    half = [part.bfloat16() for part in (q, k, v)]
    torch.testing.assert_close(
        attention.attend_by_flash(q, k, half[2]), scaled_dot_product_attention(*half)
    )  # norms return float32
    torch.testing.assert_close(
        attention.attend_by_flash(*half, attn_mask=mask.bfloat16()), scaled_dot_product_attention(*half)
    )
    torch.testing.assert_close(
        attention.attend_by_flash(q, k, v, dropout_p=0.0), scaled_dot_product_attention(q, k, v)
    )
    assert allowed == [(True, False, False, False), (True, True, True, True), (True, True, True, True)]


def test_xformers_takes_masks_of_both_kinds() -> None:
    """Masks are booleans or addends, for all heads and queries or for each; 13 keys need an aligned bias."""
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 13, 8), torch.randn(2, 3, 13, 8)
    for shape in ((2, 1, 1, 13), (2, 3, 5, 13), (1, 1, 5, 13)):
        kept = torch.rand(shape) < 0.7
        kept[..., 0] = True
        for mask in (kept, torch.randn(shape)):
            made = attention.attend_by_xformers(XFormers(), q, k, v, attn_mask=mask)
            torch.testing.assert_close(made, scaled_dot_product_attention(q, k, v, attn_mask=mask))
    with pytest.raises(ValueError, match="neither causal nor of grouped queries"):
        attention.attend_by_xformers(XFormers(), q, k, v, is_causal=True)


def test_a_missing_backend_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, xformers: XFormers
) -> None:
    """It is refused before the pipeline is opened."""

    def complaint(backend: Any) -> str:
        with pytest.raises(UserError) as error:
            Settings(path="nowhere", attention=backend).load()
        return str(error.value)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert complaint("flash") == (
        "teacher.attention: flash needs a CUDA device of compute capability 8.0 or more; "
        "expected sdpa or xformers"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert complaint("flash") == "teacher.attention: flash needs a CUDA device; expected sdpa"
    assert complaint("xformers") == "teacher.attention: xformers needs a CUDA device; expected sdpa"
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    assert complaint("xformers") == (
        "teacher.attention: xformers is not installed; expected it from pip install '.[xformers]'"
    )
    assert "nowhere cannot be opened as a diffusers pipeline" in complaint("sdpa")


def read_run(folder: Path, precision: str = "bf16", **teacher: Any) -> Any:
    """Read a run in `folder` whose teacher, a tiny DDPM, has these settings."""
    pipeline = folder / "teacher"
    if not pipeline.is_dir():
        tiny_pipelines.ddpm(pipeline)
    content = {
        "task": "distill",
        "run_dir": str(folder / "run"),
        "steps": 1,
        "precision": precision,
        "objective": {"name": "score_matching"},
        "teacher": {"name": "diffusers", "path": str(pipeline), **teacher},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return read_config(folder / "config.yaml")


def test_a_resumed_run_may_use_another_backend(tmp_path: Path) -> None:
    open_run_folder(read_run(tmp_path), ALONE)
    record_run(read_run(tmp_path))
    for name in ("xformers", "flash"):
        open_run_folder(read_run(tmp_path, attention=name), ALONE)
    with pytest.raises(
        UserError,
        match=r"run holds another run: teacher.null_label is None there and 3 here; give another run_dir$",
    ):
        open_run_folder(read_run(tmp_path, attention="flash", null_label=3), ALONE)


def test_stored_teacher_samples_do_not_depend_on_the_backend(tmp_path: Path) -> None:
    teacher = read_run(tmp_path).teacher.load()
    stored = [
        TeacherSamples(
            TeacherSamplesSettings(path=tmp_path / "x", count=2),
            read_run(tmp_path, **settings).teacher,
            teacher,
            ALONE,
        )
        for settings in ({}, {"attention": "flash"})
    ]
    assert stored[0].description == stored[1].description


def test_a_network_on_the_meta_device_needs_no_backend(tmp_path: Path) -> None:
    network = read_run(tmp_path, attention="xformers").teacher.meta()
    assert next(network.parameters()).is_meta


def test_an_impossible_backend_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"teacher.attention: expected 'sdpa', 'xformers' or 'flash'; "
        r"did you mean 'flash'\?; found 'flas'",
    ):
        read_run(tmp_path, attention="flas")
    with pytest.raises(
        UserError,
        match=r"teacher.attention: flash computes in half precision; "
        r"expected precision: bf16, or attention: sdpa or xformers",
    ):
        read_run(tmp_path, precision="fp32", attention="flash")
