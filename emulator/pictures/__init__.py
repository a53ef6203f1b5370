"""The pictures that predictions make."""
