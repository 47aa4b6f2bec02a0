"""Measuring speed and memory of training, inference and loading on any machine."""
