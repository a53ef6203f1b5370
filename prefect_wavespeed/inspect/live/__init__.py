"""What `restyle doctor --live` finds out for a few cents: how the API answers where records disagree."""
