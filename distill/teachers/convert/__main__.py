"""`python -m distill.teachers.convert network.pkl out`: a published EDM or EDM2 pickle as config.json and model.safetensors."""

from __future__ import annotations

from pathlib import Path

from distill.errors import ArgumentParser, UserError, run_command


def main(arguments: list[str]) -> None:
    parser = ArgumentParser("python -m distill.teachers.convert", "Turn a published EDM or EDM2 pickle into config.json and model.safetensors.")
    parser.add_argument("pickle", type=Path, help="the published .pkl; nothing in it is executed")
    parser.add_argument("folder", type=Path, help="a new folder, which `teacher: {name: edm, path: ...}` opens")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        raise UserError(f"{options.folder}: exists; expected a new folder")

    from distill.export import save_denoiser
    from distill.files import new_folder
    from distill.network_pickle import read_network

    network = read_network(options.pickle)
    with new_folder(options.folder) as folder:
        save_denoiser(network, folder)
    count = sum(parameter.numel() for parameter in network.parameters())
    size = "x".join(map(str, network.image_shape))
    print(f"{options.folder}: {type(network).__name__}, {count:,} parameters, images {size}, {network.label_count} labels")


if __name__ == "__main__":
    run_command(main)
