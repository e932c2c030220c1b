"""Pipelines of diffusers that make images from text or classes: their denoisers, or why they are refused."""

from __future__ import annotations

from typing import Literal, NamedTuple

from distill.config.errors import UserError


class Served(NamedTuple):
    """A pipeline that is served: the class of its denoiser, the kind of its noise schedule, and whether it
    loads adapters."""

    denoiser: str
    schedule: Literal["DDPM", "flow"]
    has_adapters: bool = True


SERVED = {
    "DDPMPipeline": Served("UNet2DModel", "DDPM", has_adapters=False),
    "DDIMPipeline": Served("UNet2DModel", "DDPM", has_adapters=False),
    "DiTPipeline": Served("DiTTransformer2DModel", "DDPM", has_adapters=False),
    "StableDiffusionPipeline": Served("UNet2DConditionModel", "DDPM"),
    "StableDiffusionXLPipeline": Served("UNet2DConditionModel", "DDPM"),
    "PixArtAlphaPipeline": Served("PixArtTransformer2DModel", "DDPM", has_adapters=False),
    "PixArtSigmaPipeline": Served("PixArtTransformer2DModel", "DDPM", has_adapters=False),
    "StableDiffusion3Pipeline": Served("SD3Transformer2DModel", "flow"),
    "FluxPipeline": Served("FluxTransformer2DModel", "flow"),
    "KolorsPipeline": Served("UNet2DConditionModel", "DDPM"),
    "HunyuanDiTPipeline": Served("HunyuanDiT2DModel", "DDPM", has_adapters=False),
    "AuraFlowPipeline": Served("AuraFlowTransformer2DModel", "flow"),
    "Lumina2Pipeline": Served("Lumina2Transformer2DModel", "flow"),
    "CogView4Pipeline": Served("CogView4Transformer2DModel", "flow"),
    "Flux2Pipeline": Served("Flux2Transformer2DModel", "flow"),
    "Flux2KleinPipeline": Served("Flux2Transformer2DModel", "flow"),
    "ChromaPipeline": Served("ChromaTransformer2DModel", "flow"),
    "QwenImagePipeline": Served("QwenImageTransformer2DModel", "flow"),
    "HunyuanImagePipeline": Served("HunyuanImageTransformer2DModel", "flow", has_adapters=False),
    "OvisImagePipeline": Served("OvisImageTransformer2DModel", "flow", has_adapters=False),
    "LongCatImagePipeline": Served("LongCatImageTransformer2DModel", "flow", has_adapters=False),
    "ZImagePipeline": Served("ZImageTransformer2DModel", "flow"),
    "Kandinsky5T2IPipeline": Served("Kandinsky5Transformer3DModel", "flow"),
    "SanaPipeline": Served("SanaTransformer2DModel", "flow"),
}
"""The pipelines that are served, by the names of their classes."""

CONTROLLED = "is controlled by another image"
PERTURBED = "perturbs attention while it samples"
SEVERAL = "runs several diffusion models in turn"
VIDEOS = "makes videos"
UNKNOWN = "has a denoiser that is not known here"
NO_DIFFUSION = "predicts tokens, and does not diffuse"
REFUSED = {
    "StableDiffusionControlNetPipeline": CONTROLLED,
    "StableDiffusionControlNetPAGPipeline": CONTROLLED,
    "StableDiffusionXLControlNetPipeline": CONTROLLED,
    "StableDiffusionXLControlNetPAGPipeline": CONTROLLED,
    "StableDiffusionXLControlNetUnionPipeline": CONTROLLED,
    "StableDiffusion3ControlNetPipeline": CONTROLLED,
    "HunyuanDiTControlNetPipeline": CONTROLLED,
    "FluxControlPipeline": CONTROLLED,
    "FluxControlNetPipeline": CONTROLLED,
    "FluxKontextPipeline": CONTROLLED,
    "QwenImageControlNetPipeline": CONTROLLED,
    "CogView4ControlPipeline": CONTROLLED,
    "ZImageControlNetPipeline": CONTROLLED,
    "ZImageControlNetInpaintPipeline": CONTROLLED,
    "ZImageOmniPipeline": CONTROLLED,
    "StableDiffusionPAGPipeline": PERTURBED,
    "StableDiffusionXLPAGPipeline": PERTURBED,
    "StableDiffusion3PAGPipeline": PERTURBED,
    "HunyuanDiTPAGPipeline": PERTURBED,
    "PixArtSigmaPAGPipeline": PERTURBED,
    "SanaPAGPipeline": PERTURBED,
    "KolorsPAGPipeline": PERTURBED,
    "IFPipeline": SEVERAL,
    "KandinskyCombinedPipeline": SEVERAL,
    "KandinskyV22CombinedPipeline": SEVERAL,
    "StableCascadeCombinedPipeline": SEVERAL,
    "WuerstchenCombinedPipeline": SEVERAL,
    "HeliosPipeline": VIDEOS,
    "HeliosPyramidPipeline": VIDEOS,
    "LatentConsistencyModelPipeline": "is distilled already, and takes an embedding of a guidance scale",
    "SanaSprintPipeline": "is distilled itself, and its network has TrigFlow's time and a guidance scale",
    "AmusedPipeline": NO_DIFFUSION,
    "VQDiffusionPipeline": NO_DIFFUSION,
    "GlmImagePipeline": UNKNOWN,
    "Ideogram4Pipeline": UNKNOWN,
    "Kandinsky3Pipeline": UNKNOWN,
    "Krea2Pipeline": UNKNOWN,
    "LuminaPipeline": UNKNOWN,
    "NucleusMoEImagePipeline": UNKNOWN,
    "BriaPipeline": UNKNOWN,
    "BriaFiboPipeline": UNKNOWN,
    "BriaFibo2Pipeline": UNKNOWN,
    "Cosmos2TextToImagePipeline": UNKNOWN,
    "DreamLitePipeline": UNKNOWN,
    "ErnieImagePipeline": UNKNOWN,
    "HiDreamImagePipeline": UNKNOWN,
    "OmniGenPipeline": UNKNOWN,
    "QwenImage21Pipeline": UNKNOWN,
    "HunyuanImageRefinerPipeline": "refines images of another model",
    "PRXPipeline": UNKNOWN,
    "PRXPixelPipeline": UNKNOWN,
    "CogView3PlusPipeline": UNKNOWN,
}
"""Why other pipelines that make images from text or classes are refused, by the names of their classes."""


def check_served(pipeline: str) -> None:
    """Raise UserError with the reason if pipelines of this class are refused."""
    if pipeline in REFUSED:
        raise UserError(
            f"teacher.path: {pipeline} {REFUSED[pipeline]}; "
            "expected one of the pipelines that python -m distill models lists"
        )
