"""The demonstration: pretrain, rebuild, compare and map, on imagery in the package."""
