"""The one exception that users are meant to read."""


class APINetError(ValueError):
    """A mistake in what the user gave: one sentence with the value and the way out.

    The command line prints its message and exits with code 2; in Python it is an
    ordinary `ValueError`.
    """
