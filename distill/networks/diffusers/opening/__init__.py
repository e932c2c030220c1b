"""Open pipelines of diffusers: from folders, from the hub, from single files, and quantised."""
