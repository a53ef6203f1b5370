"""The command ``restyle``, a command a file."""

from prefect_wavespeed.deployments.cli.app import main

__all__ = ["main"]
