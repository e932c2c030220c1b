"""Settings of small runs that between them use every part of a step."""

from __future__ import annotations

from typing import Any

DATA = {"name": "digits"}
CRITIC = {"depths": ["bottleneck"], "width": 8}
GAN = {"name": "gan", "weight": 0.1}
METHODS: dict[str, dict[str, Any]] = {
    "sid": {"objective": {"name": "score_matching"}, "data": DATA},
    "f_distill": {
        "objective": {"name": "distribution_matching", "divergence": "jensen_shannon"},
        "fake": {"alignment": 0.9},
        "discriminator": {**CRITIC, "r1": {"weight": 1.0}},
        "ratio": {},
        "terms": [GAN],
        "data": DATA,
    },
    "uni_instruct": {
        "objective": {"name": "expanded_divergence", "divergence": "forward_kl"},
        "discriminator": {**CRITIC, "reads": "fake", "own_noise": True},
        "ratio": {"source": "batch_loss"},
        "terms": [{**GAN, "own_noise": True, "weighting": "dmd", "warmup_steps": 5}],
        "data": DATA,
    },
    "dmd2_4_steps": {
        "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
        "generator": {"steps": 4, "optimizer": {"clip_grad_norm": 1.0, "clip_grad_value": 1.0}},
        "fake": {"updates": 2},
        "discriminator": {**CRITIC, "r1": {"weight": 1.0, "approximate": True}},
        "terms": [GAN],
        "data": DATA,
        "micro_batch_size": 3,
    },
    "real_data": {
        "objective": {"name": "score_matching", "alpha": 0.5, "real_data": {"alpha": 0.9, "beta": 0.92}},
        "generator": {"steps": 3, "step_inputs": "data", "ema": [0.9, {"half_life_images": 50}]},
        "terms": [
            {"name": "representation", "weight": 0.1, "memory": 16, "real_images": 64},
        ],
        "data": DATA,
        "micro_batch_size": 3,
    },
    "guidance": {
        "objective": {"name": "score_matching"},
        "guidance": {"teacher": 1.5, "fake": 1.5, "fake_training": 1.5},
        "terms": [{"name": "implicit_reward", "weight": 0.1}],
    },
    "decoupled_dmd": {
        "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
        "generator": {"steps": 2},
        "guidance": {"fake": 0.0, "fake_training": 0.0},
        "terms": [
            {
                "name": "implicit_reward",
                "weight": 0.1,
                "noise_levels": {"name": "lognormal"},
                "below_step": True,
            }
        ],
    },
}
