"""What a training shows while it runs."""

import sys
import time

import numpy as np

from lab.guard.errors import LabError


def epoch_logger(history, epochs, steps, after_epoch):
    """Return a Keras callback that appends each epoch's accuracy, loss and seconds to the history, a dict of lists.

    On a terminal it draws Keras' progress bar, elsewhere it prints a line for each epoch. `steps` is how many gradient
    steps an epoch has. Within Keras' `fit`, it raises a LabError if the loss is not finite.
    """
    import keras

    class EpochLogger(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started, self.bar = time.perf_counter(), None
            if hasattr(sys.stdout, "isatty") and sys.stdout.isatty():
                print(f"Epoch {epoch + 1}/{epochs}")
                self.bar = keras.utils.Progbar(steps, stateful_metrics=("accuracy", "loss"))

        def on_train_batch_end(self, batch, logs=None):
            done = batch + 1
            if not np.isfinite(logs["loss"]):
                epoch = len(history["seconds"]) + 1
                reason = f"training diverged: the loss is {logs['loss']} in epoch {epoch}"
                raise LabError(f"{reason}; try a smaller --learning-rate")
            if self.bar:
                self.bar.update(done, logs.items(), finalize=done == steps)

        def on_epoch_end(self, epoch, logs=None):
            logs = {**logs, "seconds": time.perf_counter() - self.started}
            for name, values in history.items():
                values.append(float(logs[name]))
            after_epoch()
            if not self.bar:
                numbers = f"accuracy {logs['accuracy']:.4f}, loss {logs['loss']:.4f}, {logs['seconds']:.2f} s"
                print(f"epoch {epoch + 1}/{epochs}: {numbers}", flush=True)

    return EpochLogger()
