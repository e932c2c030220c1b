"""The way from a configuration to a finished run: settings, the loop, checkpoints and logs."""
