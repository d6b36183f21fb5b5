"""How a training is fitted into a time: what is measured, and what is chosen."""
