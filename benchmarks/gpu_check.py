"""Is training on this machine's GPU right, and how fast is it? A minute or two; prints a text to send to the authors.

Needs a TensorFlow that can use the GPU; for those of NVIDIA, on Linux:

.venv/bin/pip install 'tensorflow[and-cuda]==2.21.0'
make gpu-check    # or: .venv/bin/python benchmarks/gpu_check.py

Two small models are trained on Fashion-MNIST: dense, and conv, which has a convolution in front. Their weights after
100 steps are compared with those that the CPU gives, and an epoch is timed against Keras' own `fit`. Without a GPU, all
of it is done on the CPU, with fewer images.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import deep_learning  # noqa: E402
import deep_learning_conv  # noqa: E402
from benchmarks.run import EXPERT, OURS, contest, epoch_seconds  # noqa: E402
from lab.analysis.compare import markdown_table  # noqa: E402
from lab.study.provenance import checkout_state, environment, library_versions  # noqa: E402
from lab.training.data import DataSet, load_data  # noqa: E402
from lab.training.recipe import Recipe, compile_model, fit, initialize_model  # noqa: E402
from lab.training.startup import start_tensorflow  # noqa: E402

SCRIPTS = {"dense": deep_learning, "conv": deep_learning_conv}
BATCH_SIZE = 32
# after 100 steps on a CPU, rounding in another order made 1e-7 (dense) and 6e-4 (conv, where it switches units), and
# factors of products rounded as in TF32 made 2e-2 (both)
LARGEST_AGREEING = 4e-3


def train_a_little(steps, use_gpu):
    """Train both models in this process, which has not started TensorFlow yet.

    Returns: by model, its weights by layer and the training path; and what it was trained on and with, both dicts
    """
    if not use_gpu:
        os.environ.update(CUDA_VISIBLE_DEVICES="-1", HIP_VISIBLE_DEVICES="-1")  # NVIDIA's and AMD's
    train_split, _ = load_data(DataSet(train_images=steps * BATCH_SIZE))
    start_tensorflow()
    found = {}
    for name, script in SCRIPTS.items():
        model = initialize_model(script.build_model, seed=0)
        compile_model(model, Recipe(), len(train_split.labels))
        with contextlib.redirect_stdout(io.StringIO()):
            path = fit(model, *train_split, 1, BATCH_SIZE)["training_path"]
        layers = [layer.get_weights() for layer in model.layers]
        found[name] = [np.concatenate([weights.ravel() for weights in layer]) for layer in layers if layer], path
    return found, {**library_versions(), **environment()}


def compare(found, expected):
    """Return the largest relative difference of a layer's weights, and a verdict. Args: weights and path, twice"""
    (weights, path), (others, other_path) = found, expected
    if path != other_path:
        return "-", "cannot be compared"  # the other path draws other dropout masks
    norm = np.linalg.norm
    largest = np.max([norm(mine - other) / norm(other) for mine, other in zip(weights, others, strict=True)])
    return f"{largest:.1e}", "agree" if largest <= LARGEST_AGREEING else "DIFFER"


def in_new_process(*arguments):
    """Return what `train_a_little` returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(train_a_little, *arguments).result()


def note(text):
    """Say on standard error what is being done."""
    print(f"... {text}", file=sys.stderr, flush=True)


def check(smoke):
    """Do the check; yield the lines of its text, each when it is known."""
    state, steps = checkout_state(), 10 if smoke else 100
    changed = " with changes" if state["dirty"] else ""
    yield f'GPU check of "What does one convolution buy?", commit {state["commit"][:10] or "unknown"}{changed}'
    note(f"training dense and conv for {steps} steps")
    found, here = in_new_process(steps, True)
    yield f"GPU: {here['gpus'] or 'TensorFlow sees none, so that all of this is about the CPU'}"
    yield f"processor: {here['processor']}, {os.cpu_count()} cores; {platform.platform()}; {here['date']}"
    yield ", ".join(f"{name} {here[name]}" for name in ("tensorflow", "keras", "numpy", "python"))
    if not here["gpus"]:
        note("TensorFlow sees no GPU; one of NVIDIA, on Linux, needs: pip install 'tensorflow[and-cuda]==2.21.0'")
    note("the same on the CPU, with the GPU hidden")
    expected, there = in_new_process(steps, False)
    if there["gpus"]:
        raise RuntimeError("the GPU could not be hidden from the process that trains on the CPU")
    rows = [[name, *compare(found[name], expected[name]), found[name][1]] for name in SCRIPTS]
    yield "\n" + markdown_table([f"weights after {steps} steps", "difference", "verdict", "training path"], rows)
    yield f"difference: from the CPU's, relative, the largest of a layer; rounding makes up to {LARGEST_AGREEING}"
    yield "training path: XLA loop is the one to expect, Keras fit what is used where that fails"

    epochs, images = 3, 60_000 if here["gpus"] else 6_400
    if smoke:
        epochs, images = 2, 320
    rows = []
    for name in SCRIPTS:
        seconds = []
        for contestant in (OURS, EXPERT):
            note(f"{name}, {contestant}: {epochs} epochs of {images:,} images")
            seconds.append(epoch_seconds(contest(contestant, model=name, epochs=epochs, images=images)))
        rows.append([name, *(f"{each:.3f}" for each in seconds), f"{seconds[0] / seconds[1]:.2f}"])
    yield "\n" + markdown_table(["seconds per 60,000 images", "ours", EXPERT, "ours / Keras"], rows)
    yield f"median of the epochs after the first, of {images:,} images; Keras as it comes, which may use TF32"


def main(argv=None):
    """Do the check; print its text, which also says what has failed: then the exit status is 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="as little as possible, to try the script out")
    smoke, lines, failed = parser.parse_args(argv).smoke, [], False
    try:
        for line in check(smoke):
            lines.append(line)
    except (Exception, SystemExit) as error:
        lines.append(f"FAILED: {type(error).__name__}: {error}")
        failed = True
    print("----- copy from here -----", *lines, "----- to here -----", sep="\n")
    print('Please send this text to the authors of "What does one convolution buy?", from whom you have the code:')
    print("as far as they know, TensorFlow has not yet run it on a GPU.")
    sys.exit(failed)


if __name__ == "__main__":
    main()
