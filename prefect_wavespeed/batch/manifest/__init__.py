"""The manifest of a batch: what its rows may hold, and where it may be."""
