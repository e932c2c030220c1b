"""Experiment trackers, which get numbers and images beside the files that are always written."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from distill.config.errors import UserError

TrackerName = Literal["tensorboard", "wandb", "trackio"]
TRACKERS: tuple[TrackerName, ...] = get_args(TrackerName)
PROJECT = "distill"
"""Project under which a tracker keeps runs unless another is given."""


def check_installed(names: Iterable[str], where: str) -> None:
    """Refuse trackers whose packages are not installed; `where` is the setting or flag that names them."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{where}: {name} is not installed; expected it from pip install '.[tracking]'")


@runtime_checkable
class Tracker(Protocol):
    """One run of one tracker. A step is that of training; images are files that Pillow opens."""

    def log(self, numbers: Mapping[str, float], images: Mapping[str, Path], step: int) -> None:
        """Log numbers and images under their names."""

    def finish(self) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files of tensorboard, in a folder of their own for each project and run."""

    def __init__(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / project / run))
        self.writer.add_text("facts", f"```json\n{json.dumps(dict(facts), indent=2)}\n```")

    def log(self, numbers: Mapping[str, float], images: Mapping[str, Path], step: int) -> None:
        import numpy as np
        from PIL import Image

        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)
        for name, path in images.items():
            with Image.open(path) as opened:
                self.writer.add_image(name, np.asarray(opened.convert("RGB")), step, dataformats="HWC")

    def finish(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, whose own files are in `folder`. WANDB_MODE=offline keeps it local."""

    def __init__(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(project=project, name=run, dir=str(folder), config=dict(facts))

    def log(self, numbers: Mapping[str, float], images: Mapping[str, Path], step: int) -> None:
        import wandb

        shown = {name: wandb.Image(str(path)) for name, path in images.items()}
        self.run.log({**numbers, **shown}, step=step)

    def finish(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, which keeps its runs in TRACKIO_DIR, in the user's cache by default."""

    def __init__(self, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> None:
        import trackio

        self.run = trackio.init(project=project, name=run, config=dict(facts))

    def log(self, numbers: Mapping[str, float], images: Mapping[str, Path], step: int) -> None:
        import trackio

        shown = {name: trackio.Image(str(path)) for name, path in images.items()}
        self.run.log({**numbers, **shown}, step=step)

    def finish(self) -> None:
        self.run.finish()


def open_tracker(name: str, project: str, run: str, folder: Path, facts: Mapping[str, Any]) -> Tracker:
    """Open a run of a tracker; `facts` describe it, and `folder` takes files of trackers that need one."""
    kinds: dict[str, type[TensorBoard] | type[WeightsAndBiases] | type[Trackio]] = {
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "trackio": Trackio,
    }
    return kinds[name](project, run, folder, facts)
