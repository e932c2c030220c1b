"""The command that turns a published network into a folder of our format."""
