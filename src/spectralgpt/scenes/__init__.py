"""Whole scenes: windows that cover them, and what a model says of each part."""
