"""Results on disk: finished runs, trained models, checkpoints. Each has a record of what decided it.

A model `fashion.keras` has its record in `fashion.json`, with the digest of its weights, so that a model and a record
from two trainings (a kill between the two writes) are noticed. Its checkpoint is `fashion.checkpoint.npz`.
"""

import contextlib
import functools
import glob
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.plumbing.digests import arrays_digest, digest
from lab.plumbing.errors import CORRUPT_FILE_ERRORS, LabError
from lab.plumbing.files import atomic_write, require_writable
from lab.plumbing.provenance import differing_parts, environment
from lab.plumbing.untrusted_models import load_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A record, a dict of JSON types that says under "made_of" what decided the run, and arrays by name."""

    record: dict
    arrays: dict

    def save(self, file, write=np.savez_compressed):
        """Write the run to a path or file object, as an .npz file."""
        write(file, record=json.dumps({**self.record, "arrays": list(self.arrays)}), **self.arrays)

    @classmethod
    def from_file(cls, path):
        """Read a run. Raises: LabError, the file is not one, or corrupt."""
        try:
            with np.load(path) as content:
                arrays = {name: content[name] for name in content.files}
            record = json.loads(str(arrays.pop("record")))
            if record.pop("arrays") != list(arrays) or not isinstance(record["made_of"], dict):
                raise ValueError("an array is missing, or what decided it")
        except CORRUPT_FILE_ERRORS as error:
            raise LabError(f"{path}: corrupt ({type(error).__name__}: {error})") from error
        return cls(record, arrays)


def run_path(folder, variant, made_of):
    """Return the path of the run that all of this decides."""
    return Path(folder) / f"{variant}-{made_of['seed']}-{digest(json.dumps(made_of, sort_keys=True))[:12]}.npz"


def changed_since(path, variant, made_of):
    """Return what differs from the most similar earlier run of the same variant, seed and recipe; [] without one."""
    differences = []
    for other in glob.glob(f"{glob.escape(str(path).rpartition('-')[0])}-*.npz"):  # no error for too long a name
        with contextlib.suppress(LabError, AttributeError):  # a file with a record of another form
            record = Run.from_file(other).record
            before, now = record["made_of"].get("recipe", {}), made_of["recipe"]
            same_recipe = all(
                before[name] == now[name] for name in before.keys() & now.keys()
            )  # it may have a new field
            if same_recipe and record.get("variant") == variant:
                differences.append(differing_parts(record["made_of"], made_of))
    return min(differences, key=len, default=[])


def make_record(model, history, scores):
    """Return what is known of a finished training, a dict of JSON types. Args: as `Training.save`"""
    parts = {"parameters": model.count_params(), "weights_sha256": arrays_digest(model.get_weights())}
    return {**parts, "history": history, **scores, "environment": environment()}


class Training:
    """One training and the place of its result, as a script's `train` gets it.

    `train` is a function of a Training that trains and saves the model and returns it with its record; `describe`, one
    that returns all that decides the result, a dict of JSON types.
    """

    def __init__(self, train, path, recipe, seed, data_dir, describe):
        self.train, self.path, self.describe = train, Path(path), describe
        self.recipe, self.seed, self.data_dir = recipe, seed, data_dir
        self.record_path = self.path.with_suffix(".json")

    @functools.cached_property
    def made_of(self):
        return self.describe()

    def start(self, resume=False):
        """Train and save the model, from the checkpoint of an interrupted training if there is one and `resume`.

        Returns: model, record: Keras model, dict of JSON types
        Raises: LabError, no data, no place to write to, or a training that diverges.
        """
        require_writable(self.path)
        self.checkpoint = Checkpoint(self.path.with_suffix(".checkpoint.npz"), self.made_of, resume)
        return self.train(self)

    def load_or_start(self):
        """Return the saved model if nothing that decides it has changed; otherwise train it and say why. As `start`"""
        try:
            model, record = self._load()
        except LabError as reason:
            logger.info("training: %s", reason)
            return self.start(resume=True)
        logger.info("reused: %s", self.path)
        return model, record

    def save(self, model, history, scores):
        """Save the trained model and its record; return both. Raises: LabError, the files cannot be written."""
        record = {"made_of": self.made_of, **make_record(model, history, scores)}
        with atomic_write(self.path) as temporary:
            model.save(temporary)
        with atomic_write(self.record_path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        self.checkpoint.path.unlink(missing_ok=True)
        logger.info("saved: %s", self.path)
        return model, record

    def _load(self):
        """Return the saved model and its record. Raises: LabError, why they cannot be reused."""
        if not os.path.isfile(self.path):  # no error for a name that is too long
            raise LabError(f"no {self.path}")
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
            changed = differing_parts(record["made_of"], self.made_of)
            digest = record["weights_sha256"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LabError(f"no usable record {self.record_path}") from error
        if changed:
            raise LabError(f"{self.path} is from a training with different {', '.join(changed)}")
        model = load_model(self.path)
        if arrays_digest(model.get_weights()) != digest:
            raise LabError(f"{self.path} and its record are from two different trainings")
        return model, record


class Checkpoint:
    """The state of a training after each epoch in one .npz file, from which it resumes to the very same weights.

    Keras' BackupAndRestore lacks the state of the generator that shuffles the images. `made_of` is what decides the
    training; `resume`, whether to use a file that exists.
    """

    def __init__(self, path, made_of, resume):
        self.path, self.made_of, self.resume = path, made_of, resume

    def save(self, history, variables):
        """Write the history and the values of Keras variables; only warn if the disk is full."""
        arrays = {f"variable{n}": variable.numpy() for n, variable in enumerate(variables)}
        try:
            with atomic_write(self.path) as temporary:
                Run({"made_of": self.made_of, "history": history}, arrays).save(temporary, np.savez)
        except LabError as error:
            logger.warning("no checkpoint of this epoch: %s", error)

    def restore(self, variables):
        """Assign the saved values to the variables and return the history; None if there is nothing to resume."""
        if not (self.resume and os.path.exists(self.path)):
            return None
        try:
            saved = Run.from_file(self.path)
            changed = differing_parts(saved.record["made_of"], self.made_of)
            if changed:
                raise LabError(f"{self.path} is of a training with different {', '.join(changed)}")
        except LabError as error:
            logger.warning("from the start: %s", error)
            return None
        for variable, value in zip(variables, saved.arrays.values(), strict=True):
            variable.assign(value)
        logger.info("resumed: after epoch %d", len(saved.record["history"]["seconds"]))
        return saved.record["history"]
