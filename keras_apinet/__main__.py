"""`python -m keras_apinet` is `keras-apinet`."""

import sys

from keras_apinet.cli import main

if __name__ == "__main__":
    sys.exit(main())
