"""Exported files, opened and run."""
