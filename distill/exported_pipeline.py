"""Re-export the pipeline classes under their old name, which exports of version 0.1 import."""

from distill.publishing.diffusers_pipeline import ExportedNetwork, OneStepPipeline

__all__ = ["ExportedNetwork", "OneStepPipeline"]
