"""What is wrong with a data set: leaks, copies, shortcuts."""
