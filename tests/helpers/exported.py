"""Students of this project's networks and their exports, for tests of exports, model cards and uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.networks.few_step_generator import FewStepGenerator
from distill.publishing.export import export_generator
from distill.teachers.edm import Settings as EDM
from distill.teachers.edm2 import Settings as EDM2
from distill.types import Condition, Generator
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import write_finished_run

ORACLES = Path(__file__).parents[1] / "oracles"
OBJECTIVE = {"name": "distribution_matching", "divergence": "jensen_shannon"}


def own_student(kind: str, folder: Path) -> FewStepGenerator:
    """Make a student of our U-Net (`unet`), of EDM's network (`edm`) or of EDM2's latent network (`edm2`).

    The last one's autoencoder lies in `folder`.
    """
    folder.mkdir(exist_ok=True)
    if kind == "unet":
        denoiser: Any = save_random_teacher(folder / "teacher", multipliers=(1,))
    elif kind == "edm":
        denoiser = EDM(path=ORACLES / "edm_tiny.pkl").load()
    else:
        denoiser = EDM2(
            path=ORACLES / "edm2_tiny.pkl", autoencoder=str(save_autoencoder(folder / "autoencoder"))
        ).load()
    return FewStepGenerator(denoiser, 2.5).eval()


def save_autoencoder(folder: Path) -> Path:
    """Save a small autoencoder with the published one's class and latents."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(**blocks, block_out_channels=(4,) * 4, norm_num_groups=4).save_pretrained(folder)
    return folder


def exported(generator: Generator, folder: Path) -> Path:
    """Export into a new folder, and return it."""
    folder.mkdir(parents=True)
    export_generator(generator, folder)
    return folder


def run_of(generator: Generator, folder: Path, teacher: dict[str, Any], **settings: Any) -> Path:
    """Write the folder of a finished run, with its export but without a model card, and return it."""
    exported(generator, folder / "export")
    return write_finished_run(folder, teacher, steps=3, objective=OBJECTIVE, **settings)


@torch.no_grad()
def images(generator: Generator, z: Tensor, cond: Condition) -> Tensor:
    """Make images, (b, c, h, w) in [0, 1]."""
    return (generator.decode(generator(z, cond)) / 2 + 0.5).clamp(0, 1)


def opened(source: Path | str) -> Any:
    """Open the pipeline of a network of this project by diffusers' own loader."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(str(source), trust_remote_code=True)
    assert type(pipe).__name__ == "OneStepPipeline"
    return pipe
