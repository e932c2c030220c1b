"""`python -m distill convert` turns a published EDM or EDM2 pickle into config.json and model.safetensors."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError, writing_to


def main(arguments: list[str]) -> None:
    """Convert a pickle and print what it holds."""
    options = _parse(arguments)

    from distill.networks.edm.published import read_network
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.networks.folder import save_model
    from distill.publishing.export import export_generator
    from distill.storage.files import check_new_folder, new_folder

    check_new_folder(options.folder, "FOLDER")
    network = read_network(options.pickle)
    with writing_to(f"{options.folder}:"), new_folder(options.folder) as folder:
        if options.student is None:
            save_model(network, folder)
        else:
            export_generator(FewStepGenerator(network, options.student), folder)
    count = sum(parameter.numel() for parameter in network.parameters())
    size = "x".join(map(str, network.image_shape))
    kind = type(network).__name__
    if options.student is not None:
        kind = f"one-step student of {kind}"
    print(f"{options.folder}: {kind}, {count:,} parameters, images {size}, {network.label_count} labels")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill convert",
        "Turn a published EDM or EDM2 pickle into config.json and model.safetensors.",
    )
    pickle = "the published .pkl, or a file of torch.save; no code in it is executed"
    parser.add_argument("pickle", type=Path, help=pickle)
    folder = "a new folder, which `teacher: {name: edm, path: ...}` opens"
    parser.add_argument("folder", type=Path, help=folder)
    parser.add_argument(
        "--student",
        type=float,
        metavar="SIGMA",
        help="the network is a one-step student that begins with noise of this standard deviation, 2.5 for "
        "those of SiD, SiDA and Uni-Instruct; the folder is then an export, which sample.py and "
        "python -m eval open (default: the network is a teacher)",
    )
    options = parser.parse_args(arguments)
    if options.student is not None and not 0 < options.student < math.inf:
        raise UserError(f"--student {options.student:g}: expected a number above 0")
    if options.folder.exists():
        raise UserError(f"{options.folder}: exists; expected a new folder")
    return options
