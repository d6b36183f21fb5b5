"""From image files to model inputs: decode, orient, crop, resize, augment."""
