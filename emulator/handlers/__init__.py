"""The calls of the API, and those that control the emulator."""
