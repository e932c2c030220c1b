"""One-step diffusion distillation: a pretrained diffusion teacher becomes a generator of one network evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.teachers import TeacherSettings
    from distill.types import Denoiser, Generator

__version__ = "0.1.0"
__all__ = ["load_generator", "load_teacher"]


def load_generator(path: Path | str) -> Generator:
    """Open a one-step generator from a run, a checkpoint or an export, to make images with.

    `generator(z, cond)` takes unit noise z, (b, *generator.noise_shape), and gives images in [-1, 1], (b, *generator.image_shape), without a graph.
    A student of latents gives latents, which `generator.decode` makes images; of other students `decode` leaves the images as they are.
    """
    from distill.networks.folder import load_generator as load

    return load(path)


def load_teacher(source: Path | str | TeacherSettings) -> Denoiser:
    """Open a teacher, with its `.schedule`: from a folder, ours or of a diffusers pipeline, a file of EDM or EDM2, or a config's `teacher`.

    Raises UserError where there is none.
    """
    if isinstance(source, (str, Path)):
        from distill.networks.edm.published import read_network
        from distill.networks.folder import is_pipeline
        from distill.teachers import diffusers, native

        path = Path(source)
        if path.suffix == ".pkl" or path.is_file():
            return read_network(path)
        source = diffusers.Settings(path=str(path)) if is_pipeline(path) else native.Settings(path=path)
    return source.load()
