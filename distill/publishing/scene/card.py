"""The parts of a scene's model card: how to render it, and from where it was seen in training."""

from __future__ import annotations

from distill.networks.scene.sizes import SceneSizes
from distill.publishing.scene.description import turntable_name, turntable_of


def scene_usage(
    sizes: SceneSizes, pixel_shape: tuple[int, ...], imports: str, path: str, command: str
) -> str:
    """Show the turntables, and write the command and the Python that render the scenes.

    `imports` and `path` are Python that leads to the export's folder.
    """
    pictures = " ".join(f"![particle {i}]({turntable_name(i)})" for i in range(sizes.particles))
    ring = turntable_of(sizes.cameras, 24)
    height, width = pixel_shape[1:]
    code = f"""{imports}

from distill import load_generator
from distill.networks.scene.cameras import Ring

scene = load_generator({path})
ring = Ring(
    count=24,
    elevations=({ring.elevations[0]:g},),
    distance={ring.distance:g},
    field_of_view={ring.field_of_view:g},
)
particle, camera = torch.tensor([0]), ring.numbered(torch.tensor([3]))
with torch.no_grad():
    image = scene.render(camera, particle, {height}, {width}).colour[0]"""
    return "\n\n".join(
        [
            pictures,
            "Turntables, depth, normals and meshes (`.ply`, `.glb`) of each particle are written by",
            f"```sh\n{command}\n```",
            "One view as a tensor in [0, 1], of any particle, camera and size:",
            f"```python\n{code}\n```",
            _say_space(sizes),
        ]
    )


def _say_space(sizes: SceneSizes) -> str:
    """Say how many particles there are, in which coordinates, and the cameras of training."""
    count = "one particle" if sizes.particles == 1 else f"{sizes.particles} particles, numbered from 0"
    cameras = sizes.cameras.model_dump(mode="json")
    seen = ", ".join(f"{name} {value}" for name, value in cameras.items() if name != "name")
    return (
        f"It has {count}, in the cube from -1 to 1, with y up and the front towards z. "
        f"Training saw it from the cameras `{cameras['name']}`, with angles in degrees: {seen}."
    )
