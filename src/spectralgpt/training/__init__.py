"""The training loop on Lightning: optimizer, schedule, checkpoints, resume."""

from spectralgpt.errors import require

require("lightning", "pyarrow", "timm")
