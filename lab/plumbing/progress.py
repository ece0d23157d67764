"""What trainings and studies show while they run."""

import logging
import statistics
import sys
import time

import numpy as np

from lab.plumbing.errors import LabError

logger = logging.getLogger(__name__)


def epoch_logger(history, epochs, steps, after_epoch):
    """Return a Keras callback that shows progress and appends each epoch's accuracy, loss and seconds to the history.

    On a terminal it draws Keras' progress bar, elsewhere it prints a line for each epoch.

    Args: history, dict of lists; how many epochs there are in all, and gradient steps in an epoch; function that is
        called after each epoch
    Raises: LabError within Keras' `fit`, the loss is not finite.
    """
    import keras

    class EpochLogger(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started, self.bar = time.perf_counter(), None
            if sys.stdout.isatty():
                print(f"Epoch {epoch + 1}/{epochs}")
                self.bar = keras.utils.Progbar(steps, stateful_metrics=("accuracy", "loss"))

        def on_steps(self, done, logs):
            if not np.isfinite(logs["loss"]):
                epoch = len(history["seconds"]) + 1
                reason = f"training diverged: the loss is {logs['loss']} in epoch {epoch}"
                raise LabError(f"{reason}; try a smaller --learning-rate")
            if self.bar:
                self.bar.update(done, [(name, float(value)) for name, value in logs.items()], finalize=done == steps)

        def on_epoch_end(self, epoch, logs=None):
            logs = {**logs, "seconds": time.perf_counter() - self.started}
            for name, values in history.items():
                values.append(float(logs[name]))
            after_epoch()
            if not self.bar:
                numbers = f"accuracy {logs['accuracy']:.4f}, loss {logs['loss']:.4f}, {logs['seconds']:.2f} s"
                print(f"epoch {epoch + 1}/{epochs}: {numbers}", flush=True)

    return EpochLogger()


class StudyProgress:
    """Logs after each run how many are done, how long the rest will take, and the mean accuracies so far."""

    def __init__(self, total, runs):
        self.total, self.runs = total, runs
        self.before, self.started = len(runs), time.monotonic()
        if self.before:
            logger.info("study: %d of %d runs are there", self.before, total)

    def show(self, key):
        """Log the state after the run of a key."""
        done = len(self.runs)
        left = (time.monotonic() - self.started) / (done - self.before) * (self.total - done)
        accuracies = {}
        for other, run in reversed(self.runs.items()):
            accuracies.setdefault(other.variant, []).append(100 * run.record["test"]["accuracy"])
        means = [f"{name} {statistics.mean(each):.2f} ({len(each)})" for name, each in accuracies.items()]
        time_left = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        state = f"{done} of {self.total} runs, about {time_left} left; {key}"
        logger.info("study: %s; test accuracy so far: %s", state, ", ".join(means[:8]))
