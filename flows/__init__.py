"""Prefect flows."""

from flows.restyle_image import restyle_image

__all__ = ["restyle_image"]
