"""From an image file to the pixels of a model: decode, turn, crop, resize, augment."""
