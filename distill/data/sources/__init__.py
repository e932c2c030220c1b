"""Sources of real images, one file each; the file's name is its name in a configuration."""
