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
    """Open a one-step generator from a run, a checkpoint or an export. Raises UserError where there is none."""
    from distill.export import load_generator as load

    return load(path)


def load_teacher(source: Path | str | TeacherSettings) -> Denoiser:
    """Open a teacher, with its `.schedule`: from a folder, ours or a diffusers pipeline's, or from the `teacher` settings of a config.

    Raises UserError where there is none.
    """
    if isinstance(source, (str, Path)):
        from distill.export import PIPELINE
        from distill.teachers import diffusers, native

        is_pipeline = (Path(source) / PIPELINE).is_file()
        source = diffusers.Settings(path=str(source)) if is_pipeline else native.Settings(path=Path(source))
    return source.load()
