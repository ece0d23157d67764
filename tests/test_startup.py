"""TensorFlow's start-up; in the processes of others: tests/faults/test_process_faults.py."""

import pytest

from lab.training.startup import start_tensorflow


@pytest.mark.parametrize(
    ("precision", "policy", "tf32"),
    [("bfloat16", "mixed_bfloat16", False), ("tf32", "float32", True), ("float32", "float32", False)],
)
def test_each_start_sets_the_precision(precision, policy, tf32):
    start_tensorflow(2, precision)
    import keras
    import tensorflow as tf

    assert keras.config.dtype_policy().name == policy
    assert tf.config.experimental.tensor_float_32_execution_enabled() == tf32
    start_tensorflow()
    assert keras.config.dtype_policy().name == "float32"
