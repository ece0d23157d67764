"""What is held out of the training images to choose a recipe by."""

HELD_OUT = 10_000


def hold_out(train_split, test_split, seed):
    """Return the rest of the training images and 10,000 of them, at most a fifth, to evaluate on; none for testing."""
    n = len(train_split.labels)
    return train_split.hold_out(min(HELD_OUT, n // 5) / n, seed)
