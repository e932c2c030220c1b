"""Settings that every run has. The docstring under a field is its help text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distill.config.settings import Settings
from distill.publishing.trackers import TrackerName
from distill.training.parallel.settings import ShardingSettings
from distill.training.settings.preview import PreviewSettings
from distill.training.settings.stop_condition import StopCondition

PRECISIONS = {
    "no": "fp32",
    "off": "fp32",
    "32": "fp32",
    "32-true": "fp32",
    "float32": "fp32",
    "False": "fp32",
    "bfloat16": "bf16",
    "bf16-mixed": "bf16",
    "bfloat16-true": "bf16-true",
    "16": "fp16",
    "16-mixed": "fp16",
    "float16": "fp16",
}
"""Names of precisions in accelerate, lightning and torch, and ours."""


def _known_precision(value: Any) -> Any:
    """Translate the names that other libraries have for a precision."""
    return PRECISIONS.get(str(value), value)


def _known_size(value: Any) -> Any:
    """Accept a whole number, `auto` and null, with one message for everything else."""
    if value is None or value == "auto":
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number.is_integer() or number < 1:
        raise ValueError(f"expected a whole number from 1, auto or null; found {value!r}")
    return int(number)


class RunSettings(Settings):
    """Settings that every run has."""

    run_dir: Path
    """Folder of the run, for configuration, statistics, samples, checkpoints, export and report."""
    resume: str = "auto"
    """Checkpoint to continue from: `auto` takes the newest one in the run's folder, if there is one, and one
    before it if its files are damaged; `never` refuses a folder that has one; a path names one, and those
    after it in the run's folder are renamed."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of all random numbers. The same seed and configuration repeat a run."""
    steps: int = Field(ge=1)
    """Length of the run in steps. Each updates the generator, except in the first `fake.warmup_steps`, or the
    teacher or autoencoder that is trained."""
    batch_size: int = Field(64, ge=1)
    """Images in an update, over all processes. A larger batch makes gradients less noisy and steps slower."""
    micro_batch_size: Annotated[int | Literal["auto"] | None, BeforeValidator(_known_size)] = None
    """Maximum number of images that one process computes at once; the gradients of a batch are accumulated.
    Lower it when memory runs out: it changes memory and time, not the result. `auto` takes the largest that
    the predicted memory of a GPU holds, and the whole batch on a CPU; null takes the whole batch."""
    data_workers: int = Field(0, ge=0)
    """Processes that read data, for each training process. 0 reads in the training process itself, which is
    enough for data held in memory; raise it if the device waits for images."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; `auto` takes a CUDA device if there is one."""
    precision: Annotated[Literal["fp32", "bf16", "bf16-true", "fp16"], BeforeValidator(_known_precision)] = (
        "fp32"
    )
    """Precision in which networks compute. `bf16` keeps weights in float32 and casts them in each pass
    (autocast). `bf16-true` holds the weights in bfloat16, so that no pass casts them, and those that are
    trained in float32 too. `fp16` is autocast with scaled losses, for networks that were trained so and for
    cards without bfloat16. `no` and `float32` mean fp32, `bfloat16` means bf16."""
    tf32: bool = True
    """Let float32 products on a GPU round their factors to TensorFloat-32, with 10 bits of mantissa, for
    which it has faster units. false computes in full float32."""
    compile: Literal["none", "blocks", "step"] = "none"
    """Compile by torch.compile, which takes a minute or more in the first step. `blocks` compiles the
    repeated blocks of the networks: fewer and larger kernels. `step` compiles whole losses, with CUDA graphs
    on a GPU, for small networks whose kernels take less time than their launches. Changes results by rounding
    only."""
    channels_last: bool = False
    """Hold the activations of convolutional networks with channels last, the layout of a GPU's convolutions
    in reduced precision; others are transposed for them. Changes results by rounding only."""
    deterministic: bool = False
    """Use kernels that add in a fixed order, so that a run on a GPU repeats itself and resumes bit for bit.
    Some are slower. On a CPU a run always does."""
    sharding: ShardingSettings = ShardingSettings()
    """Distribution of networks over processes, for networks that one GPU does not hold."""
    process_timeout: float = Field(1800.0, gt=0)
    """Seconds for which a process waits for the others. If one of them hangs, the run ends after this time,
    with one line. Shorter than the longest sampling, measurement or compilation, it ends a healthy run."""
    activation_checkpointing: bool = False
    """Recompute block activations in the backward pass. Saves memory, costs about a third more time, does not
    change results."""
    log_every: int = Field(50, ge=1)
    """Steps between lines of stats.jsonl, which average over those steps."""
    sample_every: int = Field(500, ge=1)
    """Steps between grids of samples in the run's folder."""
    preview: PreviewSettings = PreviewSettings()
    """Images of these grids: their seeds, prompts, labels and number."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints. An interrupted run loses at most so many; writing one takes time."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of checkpoints to keep, the newest; older ones are deleted."""
    monitor_every: int | None = Field(500, ge=1)
    """Steps between measurements of the samples' distance to the data. null measures nothing, which spares
    the features of all real images at the start: minutes on a CPU for images of more than 1024 values."""
    monitor_images: int = Field(2000, ge=2)
    """Images in each measurement. Few make it fast and its distances too large, so compare them with each
    other only, not with those of `python -m eval`."""
    monitor_protocol: str = "auto"
    """Protocol of the measurements; `python -m eval protocols` lists them. `auto` takes fd-pixel for images
    of at most 1024 values, and fd-effnet for larger ones if its package is installed."""
    monitor_weights: str | None = None
    """File or folder with the weights of the protocol's feature network; null finds or downloads them."""
    monitor_reference: Path | None = None
    """File of published statistics (.npz, .pkl) to measure against; null measures against the run's training
    data."""
    trackers: tuple[TrackerName, ...] = ()
    """Experiment trackers that get the statistics and the grids of samples too; stats.jsonl is always
    written."""
    tracker_project: str = Field("distill", min_length=1)
    """Project of the run in the trackers; in TensorBoard its folder within the run's."""
    tracker_name: str | None = Field(None, min_length=1)
    """Name of the run in wandb and trackio. null takes the name of the run's folder."""
    stop_when: tuple[StopCondition, ...] = ()
    """Conditions that stop the run early, such as [{measure: monitor/fd_pixel, above: 0.5}]. A stopped run is
    saved and exported, with exit code 3."""

    @model_validator(mode="after")
    def _sharding_fits(self) -> RunSettings:
        if self.sharding.is_on and self.compile == "step":
            raise ValueError("compile: step does not go with sharding; expected blocks or none")
        return self

    @property
    def micro_batch(self) -> int | None:
        """The micro-batch as a number, with which a run replaces `auto`, or None for the whole batch."""
        if self.micro_batch_size == "auto":
            raise ValueError("micro_batch_size: auto is not resolved yet")
        return self.micro_batch_size
