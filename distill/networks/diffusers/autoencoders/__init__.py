"""Autoencoders of diffusers: their kinds, as codecs of pipelines, and to be trained."""
