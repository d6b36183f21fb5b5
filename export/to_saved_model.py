"""Exports a trained run to a SavedModel folder for servers.

    python export/to_saved_model.py RUN [--out PATH] [--force] [...]

Same as `keras-apinet export RUN --format saved_model`; `--help` lists the options.
"""

import sys

from keras_apinet.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:], "--format", "saved_model"]))
