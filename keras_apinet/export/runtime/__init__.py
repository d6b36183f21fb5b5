"""Opening and running of exported files."""
