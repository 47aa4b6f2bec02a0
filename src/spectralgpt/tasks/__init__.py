"""Where a model, a loss and a metric meet."""
