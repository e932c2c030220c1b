"""Settings, configuration files, command lines and error messages. Nothing here knows about diffusion."""
