"""`python -m eval scene`: renders the particles, measures them, and prints and writes the results."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

import distill
from distill.config.errors import UserError
from distill.eval.features import quantise
from distill.eval.images.processes import Processes
from distill.eval.preference.score_names import choose_scores
from distill.eval.protocols import Protocol, default_protocol, read_protocol
from distill.eval.results.file import check_out, write_results
from distill.eval.results.tracked import track_scene
from distill.eval.results.tracking import log_results, step_of_run
from distill.eval.scene.arguments import SceneOptions
from distill.eval.scene.diversity import measure_diversity
from distill.eval.scene.known_scenes import NamedScenes, compare_with_known, render_known, scenes_of
from distill.eval.scene.results import FORMAT, SceneResults
from distill.eval.scene.similarity import choose_prompt, describe_prompts, measure_score, read_distractors
from distill.eval.scene.table import render
from distill.eval.scene.views import held_out_views, render_particles
from distill.networks.scene.cameras import Cameras
from distill.networks.scene.scene import SceneGenerator
from distill.rewards import RewardSettings
from distill.storage.provenance import commit, machine
from distill.storage.tensors import weights_sha256
from distill.training.config import CONFIG, read_run
from distill.training.settings import RunConfig

FILE = "scene.json"


def run(options: SceneOptions) -> SceneResults:
    """Measure a scene, and print the results; they are written for a run, or with `--out`."""
    out = choose_out(options)
    config = read_run(options.run) if (options.run / CONFIG).is_file() else None
    scores, prompts = choose_scored(options, config)
    generator = open_scene(options.run)
    protocol = choose_protocol(options, generator)
    device = Processes.single().device(options.device)
    views = held_out_views(generator.sizes.cameras, options.views)
    images = render_particles(generator.to(device), views, options.batch_size)
    results = describe(options, generator, views, images)
    if scores:
        results["prompts"] = describe_prompts(prompts[0], prompts[1:])
        results["scores"] = {
            name: measure_score(name, settings, images, prompts, device) for name, settings in scores.items()
        }
    else:
        results["skipped"]["scores"] = "no --scores were asked for"
    if protocol is not None:
        results["diversity"] = measure_diversity(images, protocol, device)
    else:
        results["skipped"]["diversity"] = "the scene has one particle"
    add_known_scenes(results, scenes_of(config), images, views, options)
    print(render(results))
    if out is not None:
        write_results(out, results)
        print(f"\n{out} is written")
    log_results(options.tracking, track_scene(results, options.run.resolve().name, step_of_run(options.run)))
    return results


def choose_out(options: SceneOptions) -> Path | None:
    """Return the file for the results: `--out`, or else a file in the run's folder, if it is a run."""
    if options.out is not None:
        check_out(options.out)
        return options.out
    return options.run / FILE if (options.run / CONFIG).is_file() else None


def choose_scored(
    options: SceneOptions, config: RunConfig | None
) -> tuple[dict[str, RewardSettings], list[str]]:
    """Return the scores, and their prompts, of which the first is the true one; neither without --scores."""
    if options.scores is None:
        return {}, []
    scores = choose_scores(options.scores, options.weights)
    prompt = choose_prompt(options.prompt, config)
    others = [] if options.distractors is None else read_distractors(options.distractors, prompt)
    return scores, [prompt, *others]


def choose_protocol(options: SceneOptions, generator: SceneGenerator) -> Protocol | None:
    """Return the protocol that compares particles, None if there is one particle only."""
    protocol = None if options.protocol is None else read_protocol(options.protocol)
    if generator.sizes.particles == 1:
        return None
    return protocol or default_protocol(generator.pixel_shape)


def open_scene(path: Path) -> SceneGenerator:
    """Open a generator that is a scene."""
    generator = distill.load_generator(path)
    if not isinstance(generator, SceneGenerator):
        raise UserError(f"--run {path}: its student is no scene; expected a run of generator.network scene")
    return generator


def describe(
    options: SceneOptions, generator: SceneGenerator, views: Cameras, images: Tensor
) -> SceneResults:
    """Return what the results record of the renders, (particles, views, c, h, w)."""
    pictures = quantise(2 * images.flatten(0, 1) - 1, "renders")
    return {
        "format": FORMAT,
        "of": str(options.run),
        "particles": images.shape[0],
        "views": images.shape[1],
        "size": list(images.shape[3:]),
        "cameras": views.rows().tolist(),
        "weights_sha256": weights_sha256(generator),
        "images_sha256": hashlib.sha256(pictures.numpy().tobytes()).hexdigest(),
        "skipped": {},
        "commit": commit(),
        "machine": machine(),
    }


def add_known_scenes(
    results: SceneResults, known: NamedScenes | None, images: Tensor, views: Cameras, options: SceneOptions
) -> None:
    """Add the comparison with the scenes that the teacher knows, or the reason why there is none."""
    if known is None:
        results["skipped"]["known_scenes"] = "no teacher of known scenes is recorded (an export records none)"
        return
    height, width = images.shape[3:]
    truth = render_known(known, views, height, width, options.batch_size)
    results["known_scenes"] = compare_with_known(images, truth, known.names, options.found_psnr)
