"""What several commands share: options, help, errors, and how they open and list an output."""
