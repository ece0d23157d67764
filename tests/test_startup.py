"""TensorFlow's start-up in the processes of others, who have imported or used Keras before."""

import pytest
from conftest import run_script

from lab.training.startup import start_tensorflow

PROGRAM = """
{before}
from lab.training.startup import start_tensorflow

start_tensorflow()
start_tensorflow(2)

import keras, numpy, tensorflow
keras.visualization.plot_image_gallery(numpy.zeros((1, 28, 28, 3)), value_range=(0, 1), path={figure!r})
print(tensorflow.config.threading.get_intra_op_parallelism_threads(), keras.config.backend())
"""
NOTE = (
    "note: TensorFlow had already started, with its own number of threads; "
    "results may differ in the last bits from those of a run with 2 threads"
)


@pytest.mark.parametrize(
    ("before", "threads", "notes"),
    [("", "2", 0), ("import keras, tensorflow", "2", 0), ("import keras; keras.ops.ones(1)", "0", 1)],
)
def test_keras_may_have_been_imported_or_used_before(tmp_path, before, threads, notes):
    program = PROGRAM.format(before=before, figure=str(tmp_path / "gallery.png"))
    process = run_script("-c", program, MPLBACKEND="Agg")
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [threads, "tensorflow"]
    assert process.stderr.splitlines().count(NOTE) == notes
    assert (tmp_path / "gallery.png").is_file()
    if not before:
        assert process.stderr == ""  # nothing of what TensorFlow says while it starts


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
