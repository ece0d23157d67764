"""What a trained model predicts, and what a run keeps of it."""

import numpy as np

from lab.training.data import scale

BATCH = 500


def predict(model, images):
    """Return a model's class probabilities, float32 (n, 10), for images uint8 (n, 28, 28)."""
    parts = [images[start : start + 10_000] for start in range(0, len(images), 10_000)]  # to limit the memory
    predicted = [model.predict(scale_for(model, part), BATCH, verbose=0) for part in parts]
    return np.concatenate(predicted).astype(np.float32)


def evaluate(model, images, labels):
    """Evaluate a compiled model on images uint8 (n, 28, 28) with labels (n,).

    Returns: dict of `loss`, in nats, the compiled metrics, `accuracy` in [0, 1] among them, and `n`
    """
    import tensorflow as tf

    def read(start):
        part = slice(start, start + BATCH)
        return scale_for(model, images[part]), labels[part]

    @tf.autograph.experimental.do_not_convert  # it looks at all modules, and would load those that wait to be used
    def read_in_graph(start):
        pixels, classes = tf.numpy_function(read, [start], (tf.float32, labels.dtype))
        return tf.ensure_shape(pixels, (None, *model.input_shape[1:])), tf.ensure_shape(classes, (None,))

    # with a generator instead, Keras takes twice the time; with the images as one tensor, their memory twice
    batches = tf.data.Dataset.range(0, len(labels), BATCH).map(read_in_graph)
    return {**model.evaluate(batches, verbose=0, return_dict=True), "n": len(labels)}


def scale_for(model, images):
    """Return images as a model takes them: scaled, and of its input shape."""
    return scale(images).reshape(-1, *model.input_shape[1:])


def unchanged(images):
    """Return the images as they are."""
    return images


def collect_predictions(model, split, prepare=unchanged):
    """Return what a trained model predicts for the n images of a Split, after `prepare` has changed them.

    Returns: dict of arrays: `predicted` class, uint8 (n,); `log_probability` of the actual class and `confidence`, the
        probability of the predicted class, float16 (n,)
    """
    probabilities = predict(model, prepare(split.images))
    predicted = probabilities.argmax(axis=1).astype(np.uint8)
    each = np.arange(len(predicted))
    actual = np.maximum(probabilities[each, split.labels], np.finfo(np.float32).tiny)
    return {
        "predicted": predicted,
        "log_probability": np.log(actual).astype(np.float16),
        "confidence": probabilities[each, predicted].astype(np.float16),
    }


def collect_classes(model, split, prepare=unchanged):
    """Return the predicted class of each image only, as `collect_predictions` does."""
    return {"predicted": collect_predictions(model, split, prepare)["predicted"]}
