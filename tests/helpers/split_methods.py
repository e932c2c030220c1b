"""Runs that between them use every objective and term, on networks of every kind, for tests of processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.networks.folder import save_model
from tests.helpers import tiny_pipelines
from tests.helpers.exported import own_student
from tests.helpers.methods import CRITIC, DATA, GAN, METHODS
from tests.helpers.runs import write_run

PLAIN = {"lr": 1e-2, "eps": 1.0}
"""Adam whose update is nearly proportional to the gradient. The default's is the gradient's sign, which
rounding may flip where the gradient is about zero."""
PLAIN_UPDATES = {"generator": {"optimizer": PLAIN}, "fake": {"optimizer": PLAIN}}
LORA = {"name": "lora", "rank": 2}
PROMPTS = ("a cat", "two dogs", "xyz")
TEXT_CRITIC = {"depths": ["bottleneck"], "width": 8, "reads": "fake"}


def write_methods(folder: Path) -> dict[str, Path]:
    """Write the runs, with their teachers, into a folder, and return their files by name."""
    tiny_pipelines.stable_diffusion(folder / "sd")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    edm2 = folder / "edm2-teacher"
    edm2.mkdir()
    save_model(own_student("edm2", folder).denoiser, edm2)
    runs = {**METHODS, **_own_methods(folder), **_text_methods(folder), **_edm2_methods(edm2)}
    runs |= _laboratory_methods(folder)
    return write_each(folder, runs)


def write_each(folder: Path, runs: Mapping[str, dict[str, Any]]) -> dict[str, Path]:
    """Write runs of these settings, with batches of 8, each into a folder, and return their files by name."""
    files = {}
    for name, settings in runs.items():
        (folder / name).mkdir()
        files[name] = write_run(folder / name, **{"batch_size": 8, **settings})
    return files


def _own_methods(folder: Path) -> dict[str, dict[str, Any]]:
    samples = {"path": str(folder / "samples"), "count": 6, "sampler": {"steps": 2}}
    classifier = {"name": "classifier", "path": "assets/digits-classifier"}
    return {
        "regression_teacher_real": {
            "objective": {"name": "expanded_divergence", "divergence": "jensen_shannon"},
            "discriminator": {**CRITIC, "real": "teacher", "r1": {"weight": 0.1, "at": "features"}},
            "teacher_samples": samples,
            "ratio": {"bins": 2},
            "terms": [GAN, {"name": "regression", "weight": 0.2}],
        },
        "first_step_regression": {
            "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
            "generator": {"steps": 3},
            "teacher_samples": {**samples, "path": str(folder / "targets"), "anchor": 1},
            "terms": [{"name": "regression", "step": 1, "weight": 0.2}],
        },
        "r1_of_fake": {
            "objective": {"name": "distribution_matching", "divergence": "forward_kl"},
            "discriminator": {**CRITIC, "reads": "fake", "r1": {"weight": 1.0}},
            "ratio": {},
            "terms": [GAN],
            "data": DATA,
            "activation_checkpointing": True,
        },
        "channels_last": {
            "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
            "channels_last": True,
        },
        "reward": {
            "objective": {"name": "score_matching"},
            "terms": [{"name": "reward", "weight": 0.1, "rewards": [classifier]}],
        },
    }


def _text_methods(folder: Path) -> dict[str, dict[str, Any]]:
    prompts = {"name": "text_file", "path": str(folder / "prompts.txt"), "dropout": 0.3}
    text = {"teacher": {"name": "diffusers", "path": str(folder / "sd")}, "prompts": prompts}
    sharded_parts = {"sharding": {"min_component_parameters": 1}}
    return {
        "diffusers_full": {
            **text,
            **sharded_parts,
            **PLAIN_UPDATES,
            "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
            "guidance": {"teacher": 2.0},
            "activation_checkpointing": True,
        },
        "diffusers_lora": {
            **text,
            "objective": {"name": "score_matching"},
            "generator": {"network": LORA, "steps": 2, "optimizer": PLAIN},
            "fake": {"network": LORA, "optimizer": PLAIN},
            "discriminator": {
                **TEXT_CRITIC,
                "real": "teacher",
                "r1": {"weight": 1.0, "approximate": True},
                "optimizer": PLAIN,
            },
            "teacher_samples": {"path": str(folder / "sd-samples"), "count": 6, "sampler": {"steps": 2}},
            "terms": [GAN],
        },
    }


def _edm2_methods(teacher: Path) -> dict[str, dict[str, Any]]:
    return {
        "edm2": {
            **PLAIN_UPDATES,
            "teacher": {"name": "edm2", "path": str(teacher)},
            "objective": {"name": "score_matching"},
        }
    }


def _laboratory_methods(folder: Path) -> dict[str, dict[str, Any]]:
    components = [{"mean": [2.0, 0.0], "std": 0.3}, {"mean": [-1.0, 1.0], "std": 0.5}]
    laboratory = {
        "teacher": {"name": "gaussian_mixture", "components": components},
        "objective": {"name": "expanded_divergence", "divergence": "forward_kl"},
    }
    return {
        "random_networks": {
            **laboratory,
            "generator": {"network": {"name": "mlp"}},
            "fake": {"network": {"name": "mlp"}, "warmup_steps": 1},
            "discriminator": {"width": 8, "reads": "fake", "real": "teacher"},
            "teacher_samples": {"path": str(folder / "points"), "count": 6, "sampler": {"steps": 2}},
            "ratio": {},
        },
        "exact_score": {
            **laboratory,
            "generator": {"network": {"name": "affine"}},
            "fake": {"network": {"name": "exact"}},
            "ratio": {"source": "exact"},
        },
    }
