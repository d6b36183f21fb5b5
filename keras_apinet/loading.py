"""Reading a trained model back."""

from pathlib import Path

import keras

from keras_apinet.errors import APINetError
from keras_apinet.registered import model
from keras_apinet.sealing import check_model


def load(path: str | Path, which: str = "best") -> model.APINet:
    """The trained `APINet` of a run folder or a `.keras` file.

    Args:
        path: A run folder of `keras-apinet train`, or a `.keras` file.
        which: In a run folder, `"best"` (highest validation accuracy) or `"last"`.

    Returns:
        The model, with the weights it was saved with, on the active backend.

    Raises:
        APINetError: If there is no such model, or the file is damaged or holds
            something else, or would unpack to more than it holds. Nothing in the file
            is ever executed or unpickled.
    """
    path = Path(path)
    file = path / f"{which}.keras" if path.is_dir() else path
    if not file.is_file():
        raise APINetError(
            f"There is no model at {str(file)!r}; give a run folder of "
            "`keras-apinet train` or a .keras file."
        )
    try:
        check_model(file)
        loaded = keras.saving.load_model(file, safe_mode=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        raise APINetError(
            f"The model {str(file)!r} cannot be read ({reason}); it is damaged, or not "
            "a .keras file of this package."
        ) from error
    if not isinstance(loaded, model.APINet):
        raise APINetError(
            f"{str(file)!r} holds a {type(loaded).__name__}, not an APINet; give a "
            "model that was saved by this package."
        )
    return loaded
