"""Exports a trained run to a .tflite file for phones.

    python export/to_tflite.py RUN [--out PATH] [--force] [...]

Same as `keras-apinet export RUN --format tflite`; `--help` lists the options.
"""

import sys

from keras_apinet.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:], "--format", "tflite"]))
