"""Files: written whole or not at all, never over what others wrote, read with care."""
