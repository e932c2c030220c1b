"""`python sample.py` generates images: `--run runs/X --labels 0-9 --n 100 --seed 0 --out samples/`.

A run that trained a teacher, and any other teacher as `--teacher PATH`, is sampled in many steps.
Of a scene in three dimensions, `--views 24` writes views from all sides, turntables and meshes instead.

An image depends on its own seed alone, not on the other images of its batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError
from distill.config.flags import add_computation

if TYPE_CHECKING:
    from distill.types import Denoiser

    OpenTeacher = Callable[[Path, int | None], Denoiser]

OF_IMAGES = ("prompts", "n", "seed", "seeds", "batch_size", "teacher", "steps", "churn", "guidance")
"""Options that say which images are made and how, and do not go with `--views`."""
BATCH_SIZE = 256


def main(arguments: list[str], open_teacher: OpenTeacher) -> None:
    """Generate images with a student or its teacher, and write them as a folder.

    `open_teacher` opens the teacher of a run, at a resolution in pixels if one is given.
    """
    options = _parse(arguments)
    if options.views is None:
        _save_images(options, open_teacher)
    else:
        _save_views(options)


def _save_images(options: argparse.Namespace, open_teacher: OpenTeacher) -> None:
    """Write images from seeds."""
    from distill.networks.folder import holds_teacher
    from distill.publishing.samples import (
        check_out,
        choose_condition,
        choose_sampler,
        choose_seeds,
        describe_images,
        make_images,
        open_generator,
        save_samples,
    )

    out = options.out or Path("samples")
    check_out(out)
    given = {"steps": options.steps, "churn": options.churn, "guidance": options.guidance}
    is_teacher = options.teacher or holds_teacher(options.run)
    sampler = choose_sampler(is_teacher, given)
    seeds = choose_seeds(options.seeds, options.seed, options.n)
    network: Any
    if is_teacher:
        network = _open_teacher(options, open_teacher)
    else:
        network = open_generator(options.run, options.resolution, options.device)
    cond, prompts = choose_condition(network, seeds, options.labels, options.prompts)
    origin = describe_images(network, options.run, sampler, options.dtype)
    batch_size = options.batch_size or BATCH_SIZE
    images = make_images(network, seeds, cond, sampler, options.dtype, batch_size, progress=True)
    save_samples(images, seeds, cond, out, origin, prompts)
    evaluations = f"{origin['evaluations']} network evaluation{'s' * (origin['evaluations'] > 1)}"
    print(f"{len(seeds)} images, {evaluations} each, are in {out}")


def _save_views(options: argparse.Namespace) -> None:
    """Write views, turntables and meshes of a scene."""
    from distill.publishing.samples import check_out, describe, open_generator
    from distill.publishing.scene.folder import INDEX, save_views
    from distill.publishing.scene.mesh import require_packages
    from distill.publishing.scene.turntable import check_scene

    out = options.out or Path("views")
    check_out(out, INDEX, "views")
    require_packages("--views")
    scene = check_scene(open_generator(options.run, options.resolution, options.device), options.run)
    height, width = (options.size, options.size) if options.size else scene.pixel_shape[1:]
    origin = {"run": str(options.run), **describe(scene)}
    for note in save_views(scene, options.views, (height, width), out, origin):
        print(note)
    count = scene.sizes.particles
    views = f"{options.views} view{'s' * (options.views > 1)} of {count} particle{'s' * (count > 1)}"
    print(f"{views} {'is' if options.views == count == 1 else 'are'} in {out}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser("python sample.py", "Generate images with a student, or with its teacher.")
    _add_images(parser)
    add_computation(parser)
    _add_teacher(parser)
    _add_views(parser)
    options = parser.parse_args(arguments)
    at_least(options, n=1, batch_size=1, seed=0, views=1, size=2, resolution=1)
    _check_views(options)
    _choose_source(options)
    return options


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Add what says which images are made, and where."""
    parser.add_argument("--run", type=Path, help="run folder, checkpoint or export of a student or a teacher")
    parser.add_argument(
        "--labels",
        default="all",
        help="labels, given to the images in turn, such as 3, 0-9 or 1,3,5 (default: all of the model's)",
    )
    parser.add_argument(
        "--prompts",
        help="a prompt, or a text file of one prompt a line, given to the images in turn; "
        "for models that take text",
    )
    parser.add_argument("--n", type=int, help="number of images (default: 100, or as many as --seeds)")
    parser.add_argument("--seed", type=int, help="seed of the first image; image i has seed + i (default: 0)")
    parser.add_argument("--seeds", help="the seed of each image instead, such as 3,7,10-12")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the images, grid.png and samples.json (default: samples, or views with --views)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help=f"maximum number of images at once; does not change the images (default: {BATCH_SIZE})",
    )


def _add_teacher(parser: argparse.ArgumentParser) -> None:
    """Add the teacher and its sampler."""
    parser.add_argument(
        "--teacher",
        type=Path,
        nargs="?",
        const=True,
        metavar="PATH",
        help="sample the teacher of a student's --run instead, with EDM's sampler; or, without --run, the "
        "teacher at PATH: a run, an export, a pipeline of diffusers or a file of EDM",
    )
    parser.add_argument(
        "--steps", type=int, help="steps of the teacher's sampler (default: 18, which are 35 evaluations)"
    )
    parser.add_argument(
        "--churn", type=float, help="stochastic churn of the teacher's sampler (default: 0, deterministic)"
    )
    parser.add_argument(
        "--guidance", type=float, help="guidance scale of the teacher's sampler (default: 1, no guidance)"
    )


def _add_views(parser: argparse.ArgumentParser) -> None:
    """Add the views of a scene."""
    parser.add_argument(
        "--views",
        type=int,
        help="of a scene: render this many views of each particle from all sides, and write turntables, "
        "depth, normals and meshes",
    )
    parser.add_argument(
        "--size", type=int, help="height and width of the views in pixels (default: the scene's own)"
    )


def _check_views(options: argparse.Namespace) -> None:
    """Refuse options of views without them, and options of images beside them."""
    if options.views is None:
        if options.size is not None:
            raise UserError("--size: is of the views of a scene; expected --views beside it")
        return
    given = [name for name in OF_IMAGES if getattr(options, name) is not None]
    given += ["labels"] * (options.labels != "all") + ["dtype"] * (options.dtype != "float32")
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise UserError(f"{flag}: does not go with --views, which shows a scene from all sides")


def _choose_source(options: argparse.Namespace) -> None:
    """Make `--teacher PATH` the `--run` whose teacher is sampled; `teacher` becomes True or False."""
    if isinstance(options.teacher, Path):
        if options.run is not None:
            raise UserError(
                f"--teacher {options.teacher}: stands beside --run; expected one of them, or --teacher "
                "without a path for the teacher of the run"
            )
        options.run = options.teacher
    if options.run is None:
        raise UserError("expected --run with a run, or --teacher with a teacher")
    options.teacher = options.teacher is not None


def _open_teacher(options: argparse.Namespace, open_teacher: OpenTeacher) -> Denoiser:
    """Open a teacher, or that of a run, on the device that was asked for."""
    from distill.publishing.samples import check_makes_images, choose_device

    device = choose_device(options.device)
    return check_makes_images(open_teacher(options.run, options.resolution), options.run).to(device)
