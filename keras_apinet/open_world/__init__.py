"""What a classifier does with what it never learned, on the features of its photos."""
