"""From annotation files and images to batches of crops."""
