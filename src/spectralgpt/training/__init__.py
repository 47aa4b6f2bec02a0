"""The training loop on Lightning: optimizer, schedule, checkpoints, resume."""
