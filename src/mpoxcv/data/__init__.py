"""What a fold is, and its batches."""
