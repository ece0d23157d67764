"""What sample_efficiency.py selects: balanced parts of the training images."""

import numpy as np


def select_balanced(train_split, n, seed):
    """Return n training images, the same number from each class; the subsets of a seed are nested."""
    order = np.random.default_rng(seed).permutation(len(train_split.labels))
    by_class = [order[train_split.labels[order] == label][: n // 10] for label in range(10)]
    return train_split.at(np.sort(np.concatenate(by_class)))


def hold_out_a_fifth(n):
    """Return a function that selects n training images, a fifth of which validates."""

    def select(train_split, test_split, seed):
        rest, validation = select_balanced(train_split, n, seed).hold_out(0.2, seed)
        return rest, test_split, validation

    return select
