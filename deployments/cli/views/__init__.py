"""How commands show what they found: on a terminal, and as plain lines for scripts."""
