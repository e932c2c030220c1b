"""Training of networks that compare images with captions: CLIP from scratch, and a judge of another kind."""
