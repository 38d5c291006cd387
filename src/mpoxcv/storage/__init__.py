"""Files that are whole; configs and checkpoints that are safe to read."""
