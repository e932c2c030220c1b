"""One-step diffusion distillation: a pretrained diffusion model becomes a one-step generator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.teachers import TeacherSettings
    from distill.types import Denoiser, Generator

__version__ = "0.1.0"
__all__ = ["load_generator", "load_teacher"]


def load_generator(path: Path | str) -> Generator:
    """Open the generator of a run, a checkpoint or an export, frozen.

    `generator(z, cond)` turns unit noise z, (b, *generator.noise_shape), into images in [-1, 1], (b,
    *generator.image_shape). A latent generator gives latents instead, which `generator.decode` turns into
    images; `decode` returns the images of other generators unchanged.
    """
    from distill.networks.folder import load_generator as load

    return load(path)


def load_teacher(source: Path | str | TeacherSettings, resolution: int | None = None) -> Denoiser:
    """Open a teacher, whose noise schedule is `teacher.schedule`.

    `source` is a folder of this project or of a diffusers pipeline, a file of EDM or EDM2, or the `teacher`
    of a configuration. `resolution`, in pixels, replaces the teacher's own; only pipelines of diffusers can
    change it.
    """
    if isinstance(source, (str, Path)):
        from distill.config.errors import UserError
        from distill.networks.edm.published import read_network
        from distill.networks.folder import CONFIG, holds_teacher, is_pipeline
        from distill.teachers import diffusers, native

        path = Path(source)
        is_trained_here = (path / CONFIG).is_file() and holds_teacher(path)
        if path.suffix in (".safetensors", ".gguf") or (is_pipeline(path) and not is_trained_here):
            source = diffusers.Settings(path=str(path))
        elif path.suffix == ".pkl" or path.is_file():
            if resolution is not None:
                raise UserError(f"--resolution {resolution}: {path} makes images of one size; leave it out")
            return read_network(path)
        else:
            source = native.Settings(path=path)
    return source.at_resolution(resolution).load()
