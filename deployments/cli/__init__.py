"""The command ``restyle``, a command a file."""
