"""Rendered text: a network reads the text in images, which is compared with what the prompts quote."""
