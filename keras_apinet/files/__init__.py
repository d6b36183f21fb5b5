"""File access: atomic writes, safe replacement of outputs, and careful reading."""
