"""Low-rank adapters of networks of diffusers."""
