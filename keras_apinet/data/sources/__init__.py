"""Sources of images: folders, tables, archives, TensorFlow Datasets, arrays."""
