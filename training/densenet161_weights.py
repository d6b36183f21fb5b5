"""Converts torchvision's DenseNet-161 weights, published by timm, to a Keras file.

    pip install safetensors
    python training/densenet161_weights.py model.safetensors OUT.weights.h5

The input is `model.safetensors` of huggingface.co/timm/densenet161.tv_in1k;
torchvision's own `.pth` is a pickle, which this script never opens.
"""

import argparse
import re
from pathlib import Path

import numpy as np

_NORM = ("weight", "bias", "running_mean", "running_var")


def torch_name(layer: str) -> str:
    """The torch name of a layer of `keras_apinet`'s DenseNet-161."""
    if layer in ("conv1_conv", "conv1_bn", "bn"):
        return {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}[layer]
    if found := re.fullmatch(r"pool(\d)_(bn|conv)", layer):
        kind = {"bn": "norm", "conv": "conv"}[found[2]]
        return f"transition{int(found[1]) - 1}.{kind}"
    found = re.fullmatch(r"conv(\d)_block(\d+)_(0_bn|1_bn|1_conv|2_conv)", layer)
    kinds = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}
    return f"denseblock{int(found[1]) - 1}.denselayer{found[2]}.{kinds[found[3]]}"


def convert(tensors: dict[str, np.ndarray], image_size: int = 224):
    """Builds the backbone with the weights of a torch state dictionary.

    Args:
        tensors: Arrays by torch name; convolutions are `[out, in, h, w]`.
        image_size: Image size in px; the weights do not depend on it.
    """
    from keras_apinet import backbones

    model = backbones.create("densenet161", image_size, weights=None).model
    for layer in model.layers:
        if not layer.weights:
            continue
        name = f"features.{torch_name(layer.name)}"
        if len(layer.weights) == 1:
            # Keras keeps height and width first: [h, w, in, out].
            layer.set_weights([tensors[f"{name}.weight"].transpose(2, 3, 1, 0)])
        else:
            layer.set_weights([tensors[f"{name}.{kind}"] for kind in _NORM])
    return model


def main() -> None:
    """Converts one file."""
    from safetensors.numpy import load_file

    from keras_apinet.files.io import hand_over, partial_folder

    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("source", help="model.safetensors of the torch model")
    parser.add_argument("target", help="the .weights.h5 file to write")
    args = parser.parse_args()
    target = Path(args.target)
    if not target.name.endswith(".weights.h5") or target.exists():
        parser.error(f"{args.target} must end in .weights.h5 and must not exist")
    model = convert(load_file(args.source))
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(target.parent) as folder:
        model.save_weights(folder / target.name)
        hand_over(folder / target.name, target)
    print(f"Written: {args.target}")


if __name__ == "__main__":
    main()
