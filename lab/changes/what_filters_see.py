"""What what_filters_see.py measures: the 32 filters of a trained conv model, and what it does without some of them."""

import numpy as np

from lab.training.data import scale

BATCH = 500


def contributions(weights, images):
    """Yield what each filter adds to the inputs of the 128 hidden units, float32 (32, batch, 128), batch by batch."""
    kernel, bias, hidden = weights[:3]
    hidden = hidden.reshape(26 * 26, 32, 128).transpose(1, 0, 2)
    for start in range(0, len(images), BATCH):
        maps = feature_maps(kernel, bias, images[start : start + BATCH])
        yield maps.reshape(len(maps), 26 * 26, 32).transpose(2, 0, 1) @ hidden


def feature_maps(kernel, bias, images):
    """Return what a convolution with ReLU makes of images, uint8 (n, 28, 28): float32 (n, 26, 26, 32)."""
    patches = np.lib.stride_tricks.sliding_window_view(scale(images), (3, 3), axis=(1, 2))
    return np.maximum(patches.reshape(*patches.shape[:3], 9) @ kernel.reshape(9, 32) + bias, 0)


def count_correct(weights, split, combine):
    """Return how often a model is correct if only some filters add to its hidden units, integers (combinations,).

    Args: the model's weights; Split; function of contributions (32, batch, 128) to sums (combinations, batch, 128)
    """
    _, _, _, hidden_bias, output, output_bias = weights
    correct, start = 0, 0
    for each in contributions(weights, split.images):
        labels = split.labels[start : start + BATCH]
        logits = np.maximum(combine(each) + hidden_bias, 0) @ output + output_bias
        correct, start = correct + (logits.argmax(axis=-1) == labels).sum(axis=1), start + BATCH
    return correct


def collect_filters(model, test_split, prepare):
    """Return the convolution of a trained conv model and what its filters do; a dict of arrays.

    `kernel` float32 (3, 3, 32) and `bias` (32,); `active`, the fraction of positive values in 500 images, float (32,);
    `order`, the filters from the most important one on, uint8 (32,), by the accuracy without each on every other test
    image. On these images and on the n others, how many predictions are correct: `without` each filter, int (2, 32),
    and with the 0, 1, ... 32 top-ranked ones, `best`, int (2, 33). `n`, int.
    """
    weights = [each.numpy() for each in model.trainable_variables]
    test_split = test_split._replace(images=prepare(test_split.images))
    halves = [test_split.at(slice(start, None, 2)) for start in (0, 1)]

    def leave_one_out(each):
        return each.sum(axis=0) - each

    without = np.stack([count_correct(weights, half, leave_one_out) for half in halves])
    order = without[0].argsort(kind="stable")

    def keep_best(each):
        return np.concatenate([np.zeros_like(each[:1]), each[order].cumsum(axis=0)])

    return {
        "kernel": weights[0].reshape(3, 3, 32),
        "bias": weights[1],
        "active": (feature_maps(*weights[:2], halves[1].images[:BATCH]) > 0).mean(axis=(0, 1, 2)),
        "order": np.uint8(order),
        "without": without,
        "best": np.stack([count_correct(weights, half, keep_best) for half in halves]),
        "n": np.array(len(halves[1].labels)),
    }
