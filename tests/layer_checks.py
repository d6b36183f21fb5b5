"""The same checks for every layer of the package."""

import keras
import numpy as np
from keras import ops, tree


def check_layer(layer, inputs, tmp_path, **call):
    """Config round trip, symbolic = eager, compiled, half precision, save and load."""
    outputs = tree.flatten(layer(*inputs, **call))
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()

    symbols = [
        keras.KerasTensor(np.shape(x), keras.backend.standardize_dtype(x.dtype))
        for x in inputs
    ]
    specs = tree.flatten(layer.compute_output_spec(*symbols, **call))
    for spec, output in zip(specs, outputs, strict=True):
        assert tuple(spec.shape) == tuple(output.shape)
        assert spec.dtype == keras.backend.standardize_dtype(output.dtype)

    names = [
        keras.Input(batch_shape=np.shape(x), dtype=s.dtype)
        for x, s in zip(inputs, symbols)
    ]
    model = keras.Model(names, layer(*names, **call))
    compiled = tree.flatten(model.predict_on_batch(list(inputs)))
    for spec, output, again in zip(specs, outputs, compiled, strict=True):
        if "float" in spec.dtype:
            np.testing.assert_allclose(ops.convert_to_numpy(output), again, atol=1e-5)
        else:
            np.testing.assert_array_equal(ops.convert_to_numpy(output), again)

    model.save(tmp_path / "layer.keras")
    loaded = keras.saving.load_model(tmp_path / "layer.keras")
    assert len(loaded.weights) == len(layer.weights)
    for ours, theirs in zip(layer.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)
        )
    for mine, again in zip(
        compiled, tree.flatten(loaded.predict_on_batch(list(inputs))), strict=True
    ):
        np.testing.assert_array_equal(mine, again)
