"""GenEval (Ghosh et al. 2023): a detector looks for the objects of a prompt, CLIP names their colours."""
