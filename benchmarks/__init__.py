"""Measurements that docs/ quotes; each file is a command."""
