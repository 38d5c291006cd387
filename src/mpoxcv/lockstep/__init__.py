"""Several runs trained as one network in one process."""
