"""Honest cross-validation of skin-lesion image classifiers."""

__version__ = "0.1.0"
