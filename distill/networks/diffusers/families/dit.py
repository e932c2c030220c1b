"""DiT, of classes."""

from __future__ import annotations

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family

FAMILIES = {
    "DiTTransformer2DModel": Family(
        blocks, labels="num_embeds_ada_norm", has_null_label=True, fixed_size=True
    ),
}
