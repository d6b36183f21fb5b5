"""Where images come from: folders, tables, archives, TensorFlow Datasets, arrays."""
