"""Where objects live: S3 or a directory, with the same promises."""
