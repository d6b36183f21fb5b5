"""Exports a trained run to an .onnx file for ONNX Runtime.

    python export/to_onnx.py RUN [--out PATH] [--force] [...]

Same as `keras-apinet export RUN --format onnx`; `--help` lists the options.
"""

import sys

from keras_apinet.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:], "--format", "onnx"]))
