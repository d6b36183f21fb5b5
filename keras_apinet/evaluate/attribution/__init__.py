"""Which places and channels of the features decide between two classes."""
