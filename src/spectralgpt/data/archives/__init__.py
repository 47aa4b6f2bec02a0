"""Public archives by name: what they are, how they lie on disk, what is in them."""
