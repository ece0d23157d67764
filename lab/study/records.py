"""Results on disk: finished runs, trained models, checkpoints. Each has a record, which the run itself writes once.

A model `deep_learning.keras` has its record in `deep_learning.json`, with the digest of its weights, so that a model
and a record from two trainings (a kill between the two writes) are noticed.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.guard.errors import LabError
from lab.guard.files import atomic_write, require_writable
from lab.guard.models import load_model
from lab.study.provenance import arrays_digest, checkout_state, differing_parts, environment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A record, a dict of JSON types; arrays by name; and the labels of the images that they are about, uint8 (n,)."""

    record: dict
    arrays: dict
    labels: np.ndarray

    def save(self, file, write=np.savez_compressed):
        """Write the run to a path or file object, as an .npz file. Raises: LabError, arrays that it cannot hold."""
        for name, array in self.arrays.items():
            if name in ("record", "labels", "file") or array.dtype.hasobject:
                raise LabError(f"an array called {name}, of {array.dtype}, cannot be saved; call or make it otherwise")
        write(file, record=json.dumps({**self.record, "arrays": list(self.arrays)}), labels=self.labels, **self.arrays)

    @classmethod
    def from_file(cls, path):
        """Read a run. Raises: LabError, the file is not one, or corrupt."""
        try:
            with np.load(path) as content:
                arrays = {name: content[name] for name in content.files}
            record, labels = json.loads(str(arrays.pop("record"))), arrays.pop("labels")
            if record.pop("arrays") != list(arrays):
                raise ValueError("an array is missing")
        except Exception as error:  # whatever its readers happen to raise
            raise LabError(f"{path}: corrupt ({type(error).__name__}: {error})") from error
        return cls(record, arrays, labels)


def describe_result(model, history, scores):
    """Return what is known of a finished training, a dict of JSON types, by the columns of runs.csv.

    Args: trained model; what `fit` returned; dict of what `evaluate` returned for "train" and "test"
    """
    history = dict(history)
    path = history.pop("training_path")
    return {
        **{f"{split}_images": scores[split]["n"] for split in ("train", "test")},
        "epochs_done": len(history["seconds"]),
        **{f"{split}_{name}": scores[split][name] for split in ("train", "test") for name in ("accuracy", "loss")},
        "parameters": model.count_params(),
        "seconds_per_epoch": float(np.median(history["seconds"])),
        "training_path": path,
        "weights_sha256": arrays_digest(model.get_weights()),
        "history": history,
        **environment(),
        **checkout_state(),
    }


def save(model, history, scores, options):
    """Save a trained model and its record; return both. Raises: LabError, the files cannot be written.

    Args: as `describe_result`; `options`, as from `lab.study.command_line.parse_arguments`
    """
    import keras

    optimizer = keras.saving.serialize_keras_object(model.optimizer)
    record = {
        **options.provenance,
        # its name counts up: adam_1
        "optimizer": {"class_name": optimizer["class_name"], **optimizer["config"], "name": None},
        **describe_result(model, history, scores),
    }
    with atomic_write(options.model_path) as temporary:
        model.save(temporary)
    with atomic_write(options.model_path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
    options.checkpoint.path.unlink(missing_ok=True)
    logger.info("saved: %s", options.model_path)
    return model, record


def load_saved(path, provenance):
    """Return a saved model and its record. Raises: LabError, why they cannot be reused.

    Args: path of the model; what decides it now, a dict of JSON types
    """
    if not os.path.isfile(path):  # no error for a name that is too long
        raise LabError(f"no saved model at {path}")
    record_path = path.with_suffix(".json")
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        changed = differing_parts({name: record[name] for name in provenance if name in record}, provenance)
        digest = record["weights_sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabError(f"no usable record {record_path}") from error
    if changed:
        raise LabError(f"{path} is from a training with different {', '.join(changed)}")
    model = load_model(path)
    if arrays_digest(model.get_weights()) != digest:
        raise LabError(f"{path} and its record are from two different trainings")
    return model, record


class Checkpoint:
    """The state of a training after each epoch in one .npz file, from which it resumes to the very same weights.

    Keras' BackupAndRestore lacks the state of the generator that shuffles the images.
    """

    def __init__(self, path, provenance, resume):
        """Args: path; what decides the training, a dict of JSON types; whether to use a file that exists.

        Raises: LabError, there is no place to write to.
        """
        require_writable(path)
        self.path, self.provenance, self.resume, self.used = Path(path), provenance, resume, False

    def save(self, history, variables):
        """Write the history and the values of Keras variables; only warn if the disk is full."""
        arrays = {f"variable{n}": variable.numpy() for n, variable in enumerate(variables)}
        record = {"provenance": self.provenance, "history": history}
        try:
            with atomic_write(self.path) as temporary:
                Run(record, arrays, np.empty(0)).save(temporary, np.savez)
        except LabError as error:
            logger.warning("no checkpoint of this epoch: %s", error)

    def restore(self, variables):
        """Assign the saved values to the variables and return the history; None if there is nothing to resume.

        Raises: LabError, another training has asked before: it would go on with the other's weights.
        """
        if self.used:
            raise LabError("a checkpoint is for one call of fit; call the second one without, and not with --resume")
        self.used = True
        if not (self.resume and os.path.exists(self.path)):
            return None
        try:
            saved = Run.from_file(self.path)
            if changed := differing_parts(saved.record["provenance"], self.provenance):
                raise LabError(f"{self.path} is of a training with different {', '.join(changed)}")
        except (LabError, KeyError) as error:
            logger.warning("from the start: %s", error)
            return None
        for variable, value in zip(variables, saved.arrays.values(), strict=True):
            variable.assign(value)
        logger.info("resumed: after epoch %d", len(saved.record["history"]["seconds"]))
        return saved.record["history"]
