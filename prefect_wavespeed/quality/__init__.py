"""What is looked at in a picture."""
