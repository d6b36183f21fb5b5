"""Exports a trained run to a web page that classifies photos in the browser.

    python export/to_web.py RUN [--out PATH] [--force] [...]

Same as `keras-apinet export RUN --format web`; `--help` lists the options.
"""

import sys

from keras_apinet.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:], "--format", "web"]))
