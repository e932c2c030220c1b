"""Networks and pipelines of diffusers as denoisers."""
