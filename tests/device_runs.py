"""A child process of test_devices: the same short training on several devices.

    python device_runs.py FOLDER DEVICES[:MODEL] ... [PORT INDEX]

The photos are in FOLDER/photos.

JAX's and TensorFlow's devices have to be split before the first one is used, and so in
a process of their own.
"""

import dataclasses
import os
import sys
from pathlib import Path

folder, *asked = sys.argv[1:]
joined = int(asked[0]) if len(asked) == 2 and int(asked[0]) > 1000 else None
most = 1 if joined else max(int(a.split(":")[0]) for a in asked)
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={most}"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras  # noqa: E402

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * most,
    )

import keras_apinet  # noqa: E402
from keras_apinet.train import Devices, Recipe, train  # noqa: E402
from keras_apinet.train.devices import start_processes  # noqa: E402

# What differs between replicas by construction is off: dropout, batch statistics.
RECIPE = Recipe(
    data=str(Path(folder, "photos")),
    backbone="tiny",
    group_by="none",
    image_size=32,
    epochs=2,
    steps_per_epoch=3,
    head_epochs=1,
    cached_head_features=joined is None
    and "--uncached" not in os.environ.get("RUNS", ""),
    batch_norm="inference",
    dropout_rate=0.0,
    mutual_units=16,
    classes_per_batch=8,
    images_per_class=4,
    memory_size=16,
    single_image_weight=0.5,
    unknown_keep=0,
    optimizer="sgd",
    learning_rate=1e-3,
)

if "--cached-views" in os.environ.get("RUNS", ""):
    weights = Path(folder, "tiny.weights.h5")
    keras.utils.set_random_seed(0)
    keras_apinet.build("tiny", 8, 32, None).backbone.save_weights(weights)
    settings = {"weights": str(weights), "freeze_fraction": 0.5, "cached_views": 2}
    RECIPE = dataclasses.replace(RECIPE, **settings)

if joined:
    devices = Devices(None, 1, f"localhost:{asked[0]}", 2, int(asked[1]))
    start_processes(devices)
    train(RECIPE, Path(folder, "joined"), "quiet", devices)
else:
    for name in asked:
        count, _, model = name.partition(":")
        keras.utils.clear_session()
        devices = Devices(int(count), int(model or 1))
        train(RECIPE, Path(folder, name), "quiet", devices)
