"""What makes processors fast: kernels, parts of batches, memory that is kept."""
