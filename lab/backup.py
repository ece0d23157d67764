"""The state of a training after each epoch, in one file, from which it goes on to the very same weights.

Keras' own BackupAndRestore keeps no state of the order of the images, which lives outside the model.
"""

import json
import logging
from pathlib import Path

import numpy as np

from lab import DAMAGE, LabError, replacing

logger = logging.getLogger(__name__)


class Backup:
    """The backup at a path of one training, which `identity`, a dict of JSON types, tells from others.

    Args: path; identity; the variables whose values are the state: Keras variables, in an order that is always the same
    """

    def __init__(self, path, identity, variables):
        self.path, self.identity, self.variables = Path(path), identity, variables

    def save(self, progress):
        """Write the variables' values and `progress`, a dict of JSON types; a disk that is full is only warned of."""
        values = {f"variable{n}": variable.numpy() for n, variable in enumerate(self.variables)}
        try:
            with replacing(self.path) as partial:
                np.savez(partial, progress=json.dumps(progress), identity=json.dumps(self.identity), **values)
        except LabError as error:
            logger.warning("no backup of this epoch: %s", error)

    def restore(self):
        """Give the variables the values that were saved; return the progress, or None where there is nothing to use."""
        try:
            with np.load(self.path) as content:
                identity, progress = (json.loads(str(content[name])) for name in ("identity", "progress"))
                values = [content[f"variable{n}"] for n in range(len(self.variables))]
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            logger.warning("from the start: %s is damaged (%s)", self.path, error)
            return None
        if identity != self.identity:
            differing = [key.split("_")[0] for key, value in self.identity.items() if identity.get(key) != value]
            logger.warning("from the start: %s is from another %s", self.path, ", ".join(differing))
            return None
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        return progress
