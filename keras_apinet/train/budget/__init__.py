"""Fits training into a time budget: measures costs and chooses settings."""
