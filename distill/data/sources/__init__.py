"""Sources of real images. Each file is one source, and its name is the source's name in a configuration."""
