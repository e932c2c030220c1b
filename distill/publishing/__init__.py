"""Results of a run for others: exports, samples, model cards and reports."""
