"""Settings, configuration files, command lines and messages: it knows nothing of diffusion."""
