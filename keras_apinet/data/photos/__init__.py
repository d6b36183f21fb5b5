"""From image files to model inputs: decoding, orientation, crop, resize, augmentation."""
