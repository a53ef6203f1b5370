"""Prefect tasks, one a file."""
