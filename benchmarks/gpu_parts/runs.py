"""The runs of benchmarks/gpu.py: presets, the sizes that are measured, and the variants that are compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.project import ROOT
from benchmarks.random_pipelines import SD15, SDXL, TINY, RandomTeacher, register_tiny_pipeline
from benchmarks.random_teachers import (
    CIFAR10,
    IMAGENET64,
    RandomEDM,
    RandomPickScore,
    write_captioned_images,
    write_random_images,
)
from distill.training.config import read_config
from distill.training.settings import DistillRun

Overrides = tuple[str, ...]
BF16 = ("--precision", "bf16")
TRUE = ("--precision", "bf16-true")
FP32 = ("--precision", "fp32")
BLOCKS = ("--compile", "blocks")
STEP = ("--compile", "step")
LAST = ("--channels_last", "true")
AUTO = ("--micro_batch_size", "auto")
NOT_CHANGING_MEMORY = ("--compile", "--channels_last", "--deterministic", "--tf32")
"""Settings that the dry run's prediction does not depend on."""
EDM_VARIANTS: dict[str, Overrides] = {
    "bf16": BF16,
    "bf16-true, blocks, channels last": (*TRUE, *BLOCKS, *LAST),
    "fp32, TF32": FP32,
    "bf16, again": BF16,
    "bf16, blocks": (*BF16, *BLOCKS),
    "bf16, channels last": (*BF16, *LAST),
    "bf16-true": TRUE,
    "bf16, deterministic": (*BF16, "--deterministic", "true"),
    "bf16, micro-batch auto": (*BF16, *AUTO),
    "fp32, no TF32": (*FP32, "--tf32", "false"),
}
"""Variants of the runs on networks of EDM, the most telling first. The second entry of one is a control."""
SDXL_VARIANTS: dict[str, Overrides] = {
    "bf16-true": TRUE,
    "bf16": BF16,
    "bf16-true, blocks": (*TRUE, *BLOCKS),
    "bf16-true, blocks, channels last": (*TRUE, *BLOCKS, *LAST),
    "bf16-true, micro-batch auto": (*TRUE, *AUTO),
    "bf16-true, again": TRUE,
}
PLAIN = (
    *("--fake.warmup_steps", "0", "--compile", "none", "--channels_last", "false"),
    *("--preview.count", "1"),
)
"""Overrides of every run: all networks learn from the first step, variants say how they differ, and nothing
but one picture is made before the first step."""
LORA = "{name: lora, rank: 64, alpha: 8}"


@dataclasses.dataclass(frozen=True)
class Setup:
    """A preset with the sizes in which it is measured, and the variants that take turns."""

    preset: str
    variants: Mapping[str, Overrides]
    overrides: Overrides = ()
    tiny: Overrides = ()
    """Further overrides for a CPU."""


SETUPS: dict[str, Setup] = {
    "sdxl_dmd2": Setup(
        "sdxl/dmd2_lora",
        SDXL_VARIANTS,
        (
            *("--batch_size", "2", "--micro_batch_size", "1", "--prompts.cache", "null"),
            *("--activation_checkpointing", "true"),
        ),
        ("--data.resolution", "64", "--fake.updates", "1"),
    ),
    "cifar10_sid": Setup(
        "cifar10/sid_cond", EDM_VARIANTS, ("--micro_batch_size", "128"), ("--batch_size", "2")
    ),
    "cifar10_f_distill": Setup(
        "cifar10/f_distill_cond",
        EDM_VARIANTS,
        ("--batch_size", "256", "--micro_batch_size", "64"),
        ("--batch_size", "2", "--fake.updates", "1"),
    ),
    "cifar10_uni_instruct": Setup(
        "cifar10/uni_instruct_cond",
        EDM_VARIANTS,
        (
            *("--generator.init_from", "null", "--micro_batch_size", "128"),
            *("--ratio.start_step", "0", "--terms.0.start_step", "0"),
        ),
        ("--batch_size", "2"),
    ),
    "digits": Setup(
        "digits/uni_instruct",
        {
            "compile none": (),
            "compile step": STEP,
            "compile none, again": (),
            "compile blocks": BLOCKS,
            "bf16, compile step": (*BF16, *STEP),
        },
        (),
        ("--batch_size", "2"),
    ),
    "sdxl_di_star": Setup(
        "sdxl/di_star",
        SDXL_VARIANTS,
        (
            *("--batch_size", "2", "--micro_batch_size", "1", "--prompts.cache", "null"),
            *("--generator.init_from", "null"),
            *("--generator.network", LORA, "--fake.network", LORA, "--activation_checkpointing", "true"),
            *("--terms.0.start_step", "0", "--terms.0.warmup_steps", "0"),
        ),
        ("--fake.updates", "1"),
    ),
    "scene_vsd": Setup(
        "3d/sd15_vsd",
        {"bf16": BF16, "fp32, TF32": FP32, "bf16, again": BF16},
        ("--batch_size", "4", "--micro_batch_size", "null"),
        ("--batch_size", "2", "--generator.network", "{name: scene, resolution: 8, samples: 8}"),
    ),
    "imagenet64": Setup(
        "imagenet64/dmd2",
        EDM_VARIANTS,
        ("--batch_size", "64", "--micro_batch_size", "32"),
        ("--batch_size", "2", "--fake.updates", "1"),
    ),
}
"""Training runs by the names of their parts."""
TINY_VARIANTS = 2
"""Variants that are measured on a CPU."""


def variants_of(name: str, tiny: bool) -> dict[str, Overrides]:
    """Return the variants of a part by name: on a CPU the first of them, which need no compiler."""
    variants = dict(SETUPS[name].variants)
    if not tiny:
        return variants
    eager = [variant for variant, given in variants.items() if "--compile" not in given]
    return {variant: variants[variant] for variant in eager[:TINY_VARIANTS]}


def memory_key(overrides: Overrides) -> Overrides:
    """Return the overrides without those that change no prediction of the dry run."""
    pairs = zip(overrides[::2], overrides[1::2], strict=True)
    return tuple(word for pair in pairs if pair[0] not in NOT_CHANGING_MEMORY for word in pair)


def configure(name: str, variant: Sequence[str], folder: Path, tiny: bool) -> DistillRun:
    """Read the run of a part, with random weights, and with data that are in the folder or are written there.

    Raises UserError for a variant that the settings refuse.
    """
    setup = SETUPS[name]
    given = ["--run_dir", str(folder / "run"), *PLAIN, *setup.overrides, *(setup.tiny if tiny else ())]
    given += [*_data(setup.preset, folder, tiny), *variant]
    config = read_config(ROOT / "configs" / f"{setup.preset}.yaml", given)
    assert isinstance(config, DistillRun)
    changes: dict[str, Any] = {}
    kind = setup.preset.partition("/")[0]
    if kind in ("cifar10", "imagenet64"):
        changes["teacher"] = RandomEDM(path=Path(CIFAR10 if kind == "cifar10" else IMAGENET64), narrow=tiny)
    elif kind == "3d":  # images of 256x256, as they are rendered
        changes["teacher"] = random_pipeline(SD15, 256, tiny)
    elif kind == "sdxl":
        changes["teacher"] = random_pipeline(SDXL, 1024, tiny)
        changes["terms"] = tuple(_with_random_reward(term, tiny) for term in config.terms)
    return config.model_copy(update=changes)


def random_pipeline(path: str, resolution: int, tiny: bool) -> RandomTeacher:
    """Return a pipeline with random weights, in bfloat16; on a CPU a small SDXL, for images of 64x64."""
    if tiny:
        register_tiny_pipeline()
        path, resolution = TINY, 64
    return RandomTeacher(path=path, dtype="bfloat16", resolution=resolution)


def _with_random_reward(term: Any, tiny: bool) -> Any:
    """Replace a reward's published networks by PickScore's with random weights."""
    if term.name != "reward":
        return term
    return term.model_copy(update={"rewards": (RandomPickScore(small=tiny),)})


def _data(preset: str, folder: Path, tiny: bool) -> list[str]:
    """Return the overrides that name a preset's data, which are written once."""
    if preset.startswith(("digits", "3d")):
        return []
    if preset == "sdxl/di_star":
        prompts = folder / "prompts.txt"
        prompts.write_text("\n".join(f"a painting of {thing}" for thing in ("a cat", "the sea", "a house")))
        return ["--prompts.path", str(prompts)]
    if preset.startswith("sdxl"):
        images = folder / "images"
        if not images.is_dir():
            write_captioned_images(images, 8, 64 if tiny else 1024)
        return ["--data.path", str(images)]
    file = folder / "data.npz"
    size, labels = (32, 10) if preset.startswith("cifar10") else (64, 1000)
    if not file.is_file():
        write_random_images(file, 1000 if tiny else 10_000, size, labels)
    return ["--data", f"{{name: array, path: {file}}}"]
