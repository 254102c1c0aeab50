"""Measurements of speed and memory; each module is one command, `python -m benchmarks.train_step` the main one."""
