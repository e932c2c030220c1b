"""Images to measure, in streams, and their features."""
