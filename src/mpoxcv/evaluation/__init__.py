"""From runs on disk to numbers; no torch."""
