"""Networks of transformers that answer questions about images, or read the text in them."""
