"""From files on disk to training samples and labelled sets."""
