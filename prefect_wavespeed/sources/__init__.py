"""What an ``image`` may be, and how WaveSpeedAI gets to see it."""
