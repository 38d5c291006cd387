"""Getting and making data sets: fetch, check, folds, synthetic pictures."""
