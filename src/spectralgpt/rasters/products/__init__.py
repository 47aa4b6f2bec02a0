"""One file a kind of product: from its files to what its metadata say of it."""
