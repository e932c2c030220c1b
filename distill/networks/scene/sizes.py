"""Settings of a scene: how it is represented, rendered and seen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.config.settings import Settings
from distill.networks.scene.cameras import CameraDistribution, Orbit


class SceneSizes(Settings):
    """Scenes in the cube from -1 to 1, rendered by ray marching, or scenes of Gaussians."""

    particles: int = Field(1, ge=1)
    """Scenes that are trained together, as samples of a distribution of scenes; each image shows one of them.
    Several let methods with a fake score find several answers. Memory grows in proportion."""
    representation: Literal["dense", "triplane", "gaussians"] = "dense"
    """`dense`: features at the nodes of a grid, whose memory grows with resolution^3. `triplane`: features on
    three planes that are added, which allows high resolutions with less detail inside. `gaussians`: Gaussians
    drawn by splatting, without rays, which is faster; it needs gsplat and CUDA, and takes none of the
    settings of grids and rays."""
    gaussians: int = Field(20_000, ge=1)
    """Gaussians of each scene with `representation: gaussians`. More show finer detail; their number does not
    change in training."""
    resolution: int = Field(64, ge=2)
    """Nodes of the grid, or of the planes, along each side of the cube. More show finer detail."""
    features: int = Field(16, ge=1)
    """Features at each node, which a small network turns into density and colour; unused with `width: 0`."""
    width: int = Field(32, ge=0)
    """Hidden units of that network. 0 takes density and colour from the nodes themselves: the fastest."""
    layers: int = Field(1, ge=1)
    """Hidden layers of that network."""
    grid_rate: float = Field(10.0, gt=0)
    """Learning rate of the features as a multiple of the optimiser's, which the small network takes. The
    default is that of published recipes, 1e-2 beside 1e-3."""
    blob_density: float = 10.0
    """Density at the centre before training, which falls linearly with the distance from it: training begins
    with a soft ball. 0 begins with an even fog."""
    blob_radius: float = Field(0.5, gt=0)
    """Distance from the centre at which that density has fallen to zero; also the radius of the ball over
    which Gaussians are spread before training."""
    background: Literal["white", "black", "grey", "learned"] = "white"
    """Colour behind the scene. `learned` trains one for each scene."""
    samples: int = Field(64, ge=2)
    """Points along each ray. More resolve thinner surfaces, and time grows in proportion."""
    stratified: bool = True
    """Shift the points along the rays by random parts of their spacing in training; false always takes the
    middles, so that an image is a function of camera and scene alone."""
    shaded: float = Field(0.0, ge=0, le=1)
    """Share of images with a light from a random direction, which makes flat drawings of depth visible
    (Poole et al. 2022, DreamFusion). Shading costs three more evaluations of the density at each point."""
    points_at_once: int = Field(2**20, ge=1)
    """Maximum number of points that are computed together. Fewer take less memory; parts are computed again
    in the backward pass."""
    render_size: int | None = Field(None, ge=2)
    """Height and width of the rendered images in pixels. null takes the teacher's; a smaller one is enlarged
    to the teacher's size, which saves time in early training."""
    cameras: CameraDistribution = Orbit()
    """Cameras from which the scene is seen in training."""
