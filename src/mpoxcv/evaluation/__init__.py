"""From predictions to figures. Nothing here imports torch: predictions.csv is all it needs."""
