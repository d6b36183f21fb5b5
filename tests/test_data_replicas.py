"""One global batch, shared by processes and by the replicas of one process."""

import subprocess
import sys

import numpy as np
import pytest

from keras_apinet.data import balanced_batches

pytestmark = pytest.mark.one_backend

OPTIONS = {"classes_per_batch": 3, "images_per_class": 2, "image_size": 16}


def photos():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (64, 24, 30, 3), np.uint8), np.arange(64) % 8


def collect(batches):
    return [(np.array(x), np.array(y)) for x, y in batches]


def test_processes_get_the_parts_of_one_batch():
    pair = photos()
    whole = collect(balanced_batches(pair, num_replicas=2, **OPTIONS))
    parts = [
        collect(balanced_batches(pair, process_index=i, process_count=2, **OPTIONS))
        for i in range(2)
    ]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 5
    for (images, labels), *shares in zip(whole, *parts):
        np.testing.assert_array_equal(np.concatenate([s[0] for s in shares]), images)
        np.testing.assert_array_equal(np.concatenate([s[1] for s in shares]), labels)
        # 6 of the 8 classes, so no class is in both parts.
        assert not set(shares[0][1]) & set(shares[1][1])


@pytest.mark.slow
def test_each_replica_gets_its_own_block():
    """`MirroredStrategy` on two virtual devices, over two epochs."""
    code = f"""
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
from keras_apinet.data import balanced_batches
pair = np.zeros((64, 24, 30, 3), np.uint8), np.arange(64) % 8
batches = balanced_batches(pair, num_replicas=2, **{OPTIONS})
shared = strategy.experimental_distribute_dataset(batches)
for epoch in range(2):
    for step, (images, labels) in enumerate(shared):
        blocks = [b.numpy() for b in strategy.experimental_local_results(labels)]
        want = pair[1][batches.plan.indices(epoch, step)].reshape(2, 6)
        np.testing.assert_array_equal(blocks, want)
    assert step + 1 == batches.plan.epoch_steps == 5
print("every block is there")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "every block is there", done.stderr
