"""Benchmarks of what a prompt asks for: objects (GenEval), propositions (DPG-Bench) and rendered text."""
