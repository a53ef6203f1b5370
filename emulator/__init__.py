"""A stand-in for the WaveSpeedAI v3 API: a process of its own on loopback, for demos, tests and staging."""

from prefect_wavespeed.emulator.cli import main

__all__ = ["main"]
