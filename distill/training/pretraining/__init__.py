"""Training on data of the networks that a distillation begins with: teachers and their autoencoders."""
