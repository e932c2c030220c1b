"""Results of several protocols at once, and their table."""
