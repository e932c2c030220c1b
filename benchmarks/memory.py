"""Measure peak memory and time of a step: all weights or adapters, with and without activation checkpointing.

`python benchmarks/memory.py` takes SDXL's classes with sizes for a CPU. `--config sdxl` takes SDXL's own
sizes with random weights, on a GPU: U-Net, autoencoder and text encoders, 1024x1024 pixels, one at a time,
frozen weights in bfloat16. A step is DMD2's: one fake update with its discriminator, one generator update.
Each variant runs in a process of its own. Results go into `benchmarks/results/memory.json` and into the table
between the markers in docs/diffusers.md; beside them stands what the dry run predicts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from distill.networks.diffusers.denoiser import DiffusersNetwork  # noqa: E402
from distill.networks.diffusers.meta import meta_pipeline  # noqa: E402
from distill.networks.diffusers.pipeline import cast_weights  # noqa: E402
from distill.networks.diffusers.published import CLIP_G, CLIP_L, PUBLISHED, SDXL_UNET, VAE  # noqa: E402
from distill.storage.files import read_json, write_json, write_text  # noqa: E402
from distill.storage.provenance import commit, machine  # noqa: E402
from distill.teachers import diffusers  # noqa: E402
from distill.training.distillation.task import Distillation  # noqa: E402
from distill.training.dry_run.cost import META, measure_both  # noqa: E402
from distill.training.dry_run.step import simulate_distillation  # noqa: E402
from distill.training.launch import build_accelerator  # noqa: E402
from distill.training.logging import Clock  # noqa: E402
from distill.training.settings import DistillRun  # noqa: E402
from distill.types import Condition, Text  # noqa: E402

RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "memory.json", ROOT / "docs" / "diffusers.md"
BEGIN, END = "<!-- memory: begin -->", "<!-- memory: end -->"
MIB, STEPS = 2**20, 3
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SMALL_UNET = {
    **{
        "sample_size": 32,
        "block_out_channels": (64, 128, 256),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 8),
    },
    **{
        "cross_attention_dim": 192,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 6 * 32 + 128,
    },
}
SMALL_CLIPS = [
    {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 2, "projection_dim": width}
    for width in (64, 128)
]
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": {
        "path": "tiny",
        "dtype": "float32",
        "precision": "fp32",
        "batch_size": 4,
        "rank": 16,
        "device": "cpu",
    },
    "sdxl": {
        "path": SDXL,
        "dtype": "bfloat16",
        "precision": "bf16",
        "batch_size": 1,
        "rank": 64,
        "device": "cuda",
    },
}
LABELS = {"tiny": "SDXL's kind, small", "sdxl": "SDXL, 1024x1024"}
WAYS = list(itertools.product(("copy", "lora"), (False, True)))


def register_the_small_one() -> None:
    """Add a small pipeline to the published ones: SDXL's classes and configurations in other sizes."""
    kind, parts = PUBLISHED[SDXL]
    small = {"unet": {**SDXL_UNET, **SMALL_UNET}, "vae": {**VAE, "block_out_channels": (32,) * 4}}
    small |= {
        "text_encoder": {**CLIP_L, **SMALL_CLIPS[0], "num_hidden_layers": 2},
        "text_encoder_2": {**CLIP_G, **SMALL_CLIPS[1], "num_hidden_layers": 2},
    }
    PUBLISHED["tiny"] = (
        kind,
        {
            name: (library, part, {**config, **small.get(name, {})})
            for name, (library, part, config) in parts.items()
        },
    )


class RandomTeacher(diffusers.Settings):
    """A published pipeline with random weights, and random prompt embeddings, since it has no tokenizer."""

    def load(self) -> DiffusersNetwork:
        pipe = meta_pipeline(self.path)
        torch.manual_seed(0)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                cast_weights(part, getattr(torch, self.dtype))
                draw_weights(part.to_empty(device="cpu"))
        network = self._around(pipe)
        pipeline = network.pipeline
        shapes = pipeline.text_shapes()

        def encode_prompts(prompts: list[str]) -> Condition:
            given, unconditional = (
                {name: torch.randn(rows, *shape) for name, shape in shapes.items()}
                for rows in (len(prompts), 1)
            )
            return Condition(text=Text(given, unconditional))

        pipeline.encode_prompts, pipeline.prompt_encoder_sha256 = encode_prompts, lambda: "random"  # type: ignore[method-assign,assignment]
        return network


def draw_weights(network: nn.Module) -> None:
    """Draw weights under which activations keep their size from layer to layer."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))


def config_of(name: str, kind: str, is_checkpointed: bool, folder: Path) -> DistillRun:
    """Return a run of DMD2 on the teacher's own samples, which needs no data."""
    chosen = CONFIGS[name]
    (folder / "prompts.txt").write_text("a prompt")
    network = {"name": kind, **({"rank": chosen["rank"]} if kind == "lora" else {})}
    return DistillRun.model_validate(
        {
            **{
                "task": "distill",
                "run_dir": folder / "run",
                "steps": STEPS,
                **{key: chosen[key] for key in ("batch_size", "precision", "device")},
            },
            "teacher": RandomTeacher(path=chosen["path"], dtype=chosen["dtype"]),
            "prompts": {"name": "text_file", "path": folder / "prompts.txt"},
            "teacher_samples": {"path": folder / "samples", "count": 1, "sampler": {"steps": 1}},
            "activation_checkpointing": is_checkpointed,
            "generator": {"network": network, "init_noise_to_signal": 1.16},
            "fake": {"network": network},
            "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
            "guidance": {"teacher": 8.0},
            "discriminator": {"reads": "fake", "real": "teacher"},
            "terms": [{"name": "gan", "weight": 5e-3}],
        }
    )


def run(name: str, kind: str, is_checkpointed: bool) -> dict[str, Any]:
    """Take some steps in a fresh process; return the allocator's peak in MiB and the seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(name, kind, is_checkpointed, Path(folder))
        accelerator = build_accelerator(config)

        def begin() -> Distillation:
            task = Distillation(config, accelerator, Clock())
            task.start(0)
            for step in range(STEPS):
                task.update(step, detailed=False)
            return task

        on_gpu = accelerator.device.type == "cuda"
        task, most = begin_on_gpu(begin) if on_gpu else begin_on_cpu(begin)
        seconds = [
            timed(lambda step=step: task.update(step, detailed=False), on_gpu)
            for step in range(STEPS, 2 * STEPS)
        ]
        return {name: size / MIB for name, size in most.items()} | {"seconds": min(seconds)}


def begin_on_gpu(begin: Callable[[], Distillation]) -> tuple[Distillation, dict[str, int]]:
    """Take the steps; return the peak bytes in tensors, and those that the allocator reserved for them."""
    task = begin()
    return task, {"measured": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def begin_on_cpu(begin: Callable[[], Distillation]) -> tuple[Distillation, dict[str, int]]:
    """Take the steps; return the peak bytes in tensors, by the allocations that torch's profiler records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        task = begin()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return task, {
        "measured": max(
            itertools.accumulate(
                event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())
            )
        )
    }


def timed(do: Callable[[], Any], on_gpu: bool) -> float:
    """Return the seconds that it takes: of the clock on a GPU, of the processor elsewhere."""
    if on_gpu:
        torch.cuda.synchronize()
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    do()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def predict(name: str) -> dict[tuple[str, bool], float]:
    """Return the peak of every variant's steps that the dry run predicts, in MiB."""
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("copy", "lora"):
            config = config_of(name, kind, False, Path(folder))
            teacher = config.teacher.meta().eval().requires_grad_(False)
            step = simulate_distillation(config, teacher, META)
            both = measure_both(kind, step, config).values()
            for is_checkpointed, cost in zip((False, True), both, strict=True):
                peak = max(added for name, added in cost.added.items() if name in step.updates)
                costs[kind, is_checkpointed] = (sum(cost.held.values()) + peak) / MIB
    return costs


def run_apart(name: str, kind: str, is_checkpointed: bool) -> dict[str, Any]:
    """Call `run` in a process of its own."""
    words = [
        sys.executable,
        __file__,
        "--config",
        name,
        "--way",
        kind,
        *(["--checkpointing"] if is_checkpointed else []),
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[str, Any]) -> str:
    """Return all results as a Markdown table, with "not run" for what was not measured."""
    lines = [
        "| network | what learns | activation checkpointing "
        "| predicted, GiB | measured, GiB | time of a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        first = result["ways"][0].get("seconds")
        for way in result["ways"]:
            spent = "not run"
            if "seconds" in way:
                spent = (
                    f"{way['seconds']:.2f} s"
                    if CONFIGS[name]["device"] == "cuda"
                    else f"{way['seconds'] / first:.2f}"
                )
            measured = f"{way['measured'] / 1024:.2f}" if "measured" in way else "not run"
            trained = {"copy": "all weights", "lora": "adapters"}[way["way"]]
            checkpointed = "yes" if way["activation checkpointing"] else "no"
            predicted = f"{way['predicted'] / 1024:.2f}"
            cells = (LABELS[name], trained, checkpointed, predicted, measured, spent)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", choices=CONFIGS, default="tiny", help="tiny, for CPUs, or sdxl, for a GPU (default: tiny)"
    )
    parser.add_argument(
        "--predict", action="store_true", help="predict only, and leave what was measured before as not run"
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=("copy", "lora"),
        default=("copy", "lora"),
        help="what learns (default: both)",
    )
    parser.add_argument("--way", choices=("copy", "lora"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    register_the_small_one()
    if options.way:
        print(json.dumps(run(options.config, options.way, options.checkpointing)))
        return
    costs, ways = predict(options.config), []
    for kind, is_checkpointed in WAYS:
        way = {
            "way": kind,
            "activation checkpointing": is_checkpointed,
            "predicted": costs[kind, is_checkpointed],
        }
        if not options.predict and kind in options.ways:
            way |= run_apart(options.config, kind, is_checkpointed)
        print(way, flush=True)
        ways.append(way)
    conditions = {
        "machine": machine(),
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sizes in": "MiB",
    }
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    write_json(
        RESULTS,
        results
        | {options.config: {"conditions": conditions, "settings": CONFIGS[options.config], "ways": ways}},
    )
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    text = table(read_json(RESULTS))
    write_text(DOCUMENT, f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    print(text)


if __name__ == "__main__":
    main()
