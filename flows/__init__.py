"""Prefect flows."""

from flows.restyle_batch import restyle_batch
from flows.restyle_image import restyle_image
from flows.restyle_object import restyle_object
from flows.settle import settle

__all__ = ["restyle_batch", "restyle_image", "restyle_object", "settle"]
