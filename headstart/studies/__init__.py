"""Loops over runs: methods compared, data audited."""
