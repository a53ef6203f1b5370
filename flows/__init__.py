"""Prefect flows."""

from prefect_wavespeed.flows.restyle_batch import arestyle_batch, restyle_batch
from prefect_wavespeed.flows.restyle_image import arestyle_image, restyle_image
from prefect_wavespeed.flows.restyle_object import restyle_object
from prefect_wavespeed.flows.settle import settle

__all__ = ["arestyle_batch", "arestyle_image", "restyle_batch", "restyle_image", "restyle_object", "settle"]
