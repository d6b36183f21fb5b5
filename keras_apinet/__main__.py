"""`python -m keras_apinet` is `keras-apinet`."""

from keras_apinet.cli import program

if __name__ == "__main__":
    program()
