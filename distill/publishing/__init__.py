"""What a run leaves for others: exports, samples, model cards and reports."""
