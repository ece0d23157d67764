"""Where the time of a conv training step goes: each piece as a separate loop, compiled by XLA. Half a minute.

Writes results/profile_conv.md: medians of nine loops of 100 rounds, in milliseconds.

python benchmarks/profile_conv.py
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lab.analysis.compare import markdown_table  # noqa: E402
from lab.guard.files import atomic_write  # noqa: E402
from lab.training.startup import start_tensorflow  # noqa: E402

ROUNDS, REPEATS = 100, 9
TINY = 1e-9  # makes a piece depend on the round before, so that XLA cannot take it out of the loop


def pieces():
    """Return by name a function of a round's state to the next state, and the first state."""
    import tensorflow as tf

    rng = np.random.default_rng(0)

    def draw(*shape):
        return tf.constant(rng.normal(0, 0.05, shape).astype(np.float32))

    def patches(images):
        steps = (1, 3, 3, 1), (1, 1, 1, 1), (1, 1, 1, 1)
        return tf.reshape(tf.image.extract_patches(images, *steps, "VALID"), (-1, 9))

    def adam(weights, means, squares, gradients):
        means, squares = means + (gradients - means) * 0.1, squares + (gradients**2 - squares) * 0.001
        return weights - 1e-3 * means / (tf.sqrt(squares) + 1e-7), means, squares, gradients

    maps, weights, hidden = draw(32, 26 * 26 * 32), draw(26 * 26 * 32, 128), draw(32, 128)
    images, kernel, upstream = draw(32, 28, 28, 1), draw(9, 32), draw(32 * 26 * 26, 32)
    return {
        "convolution and ReLU": (lambda x, k: (x, k + TINY * tf.nn.relu(patches(x) @ k)[:9]), [images, kernel]),
        "Dense(128)": (lambda x, w, h: (x + TINY * h[0, 0], w, h + TINY * (x @ w)), [maps, weights, hidden]),
        "gradient of its inputs": (
            lambda w, h, x: (w, h + TINY * x[:, :128], tf.matmul(h, w, transpose_b=True)),
            [weights, hidden, maps],
        ),
        "gradient of its weights": (
            lambda x, h, w: (x, h, tf.matmul(x, h + TINY * w[:32], transpose_a=True)),
            [maps, hidden, weights],
        ),
        "gradient of the kernel": (
            lambda x, k, u: (x, k + TINY * tf.matmul(patches(x), u + k[0, 0], transpose_a=True), u),
            [images, kernel, upstream],
        ),
        "Adam": (adam, [weights, draw(26 * 26 * 32, 128), tf.abs(draw(26 * 26 * 32, 128)), draw(26 * 26 * 32, 128)]),
    }


def timer(function, state):
    """Return a function that does a loop of ROUNDS, and returns the milliseconds of a round."""
    import tensorflow as tf

    @tf.function(autograph=False, jit_compile=True)
    def run(*state):
        return tf.while_loop(lambda n, *_: n < ROUNDS, lambda n, *state: (n + 1, *function(*state)), (0, *state))

    def milliseconds():
        started = time.perf_counter()
        tf.reshape(run(*state)[-1], [-1])[0].numpy()
        return (time.perf_counter() - started) / ROUNDS * 1e3

    milliseconds()  # compiles
    return milliseconds


def main():
    """Time all pieces in turn; write and print their table."""
    start_tensorflow()
    timers = {name: timer(*piece) for name, piece in pieces().items()}
    times = {name: [] for name in timers}
    for _ in range(REPEATS):
        for name, milliseconds in timers.items():
            times[name].append(milliseconds())
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [[name, f"{median:.2f}"] for name, median in [*medians.items(), ("sum", sum(medians.values()))]]
    table = markdown_table(["piece of a conv step, 32 images", "ms"], rows)
    print(table)
    with atomic_write(ROOT / "results" / "profile_conv.md") as temporary:
        temporary.write_text(table + "\n")


if __name__ == "__main__":
    main()
