"""Networks that map a batch of pictures to one score a class."""
