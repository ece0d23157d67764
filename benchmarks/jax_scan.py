"""Contestant: JAX, a whole epoch as one compiled scan.

python benchmarks/jax_scan.py --model conv --epochs 5
"""

import time
from functools import partial

import contestant

EPSILON = 1e-7  # Keras' default


def initial_weights(name, key):
    """Return Keras' initial weights: a dict of layers, each a dict of `w` and `b`."""
    import jax
    import jax.numpy as jnp

    shapes = {"hidden": (28 * 28, 128), "output": (128, 10)}
    if name == "conv":
        shapes = {"conv": (3, 3, 1, 32), "hidden": (26 * 26 * 32, 128), "output": (128, 10)}
    glorot_uniform = jax.nn.initializers.glorot_uniform()
    return {
        layer: {"w": glorot_uniform(key, shape), "b": jnp.zeros(shape[-1])}
        for (layer, shape), key in zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True)
    }


def logits(weights, images, kept=None):
    """Return the model's logits (n, 10) of images (n, 28, 28); `kept` is dropout's mask of the 128 hidden values."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    if "conv" in weights:
        conv = weights["conv"]
        # channels first: faster on a CPU than channels last
        layout = ("NCHW", "HWIO", "NCHW")
        images = lax.conv_general_dilated(images[:, None], conv["w"], (1, 1), "VALID", dimension_numbers=layout)
        images = jax.nn.relu(images + conv["b"][:, None, None])
    hidden = images.reshape(len(images), -1) @ weights["hidden"]["w"] + weights["hidden"]["b"]
    if "conv" not in weights:
        hidden = jax.nn.relu(hidden)
    if kept is not None:
        hidden = jnp.where(kept, hidden / 0.8, 0)
    return hidden @ weights["output"]["w"] + weights["output"]["b"]


def mean_loss(weights, images, labels, kept):
    """Return the mean cross-entropy."""
    import jax
    import jax.numpy as jnp

    scores = jax.nn.log_softmax(logits(weights, images, kept))
    return -jnp.take_along_axis(scores, labels[:, None], 1).mean()


def adam(state, gradients):
    """Return the state (weights, means, squares, count) after one step of Adam, as Keras defines it."""
    import jax
    import jax.numpy as jnp

    weights, means, squares, count = state
    count = count + 1
    rate = 1e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    means = jax.tree.map(lambda mean, gradient: mean + (gradient - mean) * 0.1, means, gradients)
    squares = jax.tree.map(lambda square, gradient: square + (gradient**2 - square) * 0.001, squares, gradients)
    weights = jax.tree.map(
        lambda weight, mean, square: weight - rate * mean / (jnp.sqrt(square) + EPSILON), weights, means, squares
    )
    return weights, means, squares, count


def train_epoch(state, images, labels, key):
    """Train on all images once, in a new order; return the new state."""
    import jax
    from jax import lax

    def step(state, batch):
        indices, kept = batch
        gradients = jax.grad(mean_loss)(state[0], images[indices], labels[indices], kept)
        return adam(state, gradients), None

    order_key, dropout_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))
    # drawn at once for the whole epoch: a draw in every step costs about a quarter of a dense epoch
    kept = jax.random.bernoulli(dropout_key, 0.8, (len(images), 128))
    size = contestant.BATCH_SIZE
    whole = len(images) // size * size
    batches = (order[:whole].reshape(-1, size), kept[:whole].reshape(-1, size, 128))
    state, _ = lax.scan(step, state, batches)
    if whole < len(images):
        state, _ = step(state, (order[whole:], kept[whole:]))
    return state


def evaluate(weights, images, labels):
    """Return the accuracy."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def correct(weights, images, labels):
        return (logits(weights, images).argmax(1) == labels).sum()

    starts = jnp.arange(0, len(images), contestant.EVALUATION_BATCH)
    batches = [slice(start, start + contestant.EVALUATION_BATCH) for start in starts.tolist()]
    return sum(int(correct(weights, images[batch], labels[batch])) for batch in batches) / len(images)


def main(argv=None):
    """Train, evaluate, and print the closing line."""
    options = contestant.parser(__doc__).parse_args(argv)
    import jax
    import jax.numpy as jnp

    train_split, test_split = contestant.load_scaled(options.images)
    train_images, train_labels = jnp.asarray(train_split.images), jnp.asarray(train_split.labels, jnp.int32)
    weights_key, *epoch_keys = jax.random.split(jax.random.key(options.seed), options.epochs + 1)
    weights = initial_weights(options.model, weights_key)
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = (weights, zeros(weights), zeros(weights), jnp.float32(0))

    epoch = jax.jit(train_epoch, donate_argnames="state")
    epoch_seconds = []
    for key in epoch_keys:
        started = time.perf_counter()
        state = jax.block_until_ready(epoch(state, train_images, train_labels, key))
        epoch_seconds.append(time.perf_counter() - started)
    accuracy = evaluate(state[0], *test_split)
    contestant.report(options, epoch_seconds, accuracy, ("jax", "jaxlib"))


if __name__ == "__main__":
    main()
