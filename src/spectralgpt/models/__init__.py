"""Tensors in, tensors out: tokens, positions, encoder, decoder and heads."""
