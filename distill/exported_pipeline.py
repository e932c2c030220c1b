"""Re-export the pipeline classes under their old name, which earlier exports import."""

from distill.publishing.diffusers_pipeline import ExportedNetwork, OneStepPipeline

__all__ = ["ExportedNetwork", "OneStepPipeline"]
