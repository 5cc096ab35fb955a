"""From annotation files and photographs to batches of crops."""
