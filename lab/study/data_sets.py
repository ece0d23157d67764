"""Which data set a command line names, and the names of its classes, for tables and figures."""

import os
from pathlib import Path

from lab.guard.data_files import DataError, find_file
from lab.guard.errors import LabError
from lab.training.data import DIGESTS, FILES, DataSet

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CLASSES = {"fashion-mnist": CLASS_NAMES, "mnist": tuple("0123456789")}


def find_data_set(text, folder=None, train_images=None, test_images=None):
    """Return the DataSet that a command line names.

    A folder is called by its own name, and what it holds is verified only if that is the name of a known data set.

    Args: "fashion-mnist", "mnist", or a folder; folder of the files of a named data set; as `DataSet`, for both
    Raises: LabError, the text is none of these, or the folder has no such files.
    """
    if text in DIGESTS:
        return DataSet(text, _absolute(folder) if folder else None, train_images, test_images)
    if folder:
        raise LabError(f"--data-dir {folder} is for {' and '.join(DIGESTS)}; --dataset {text} is to be a folder itself")
    path = _absolute(text)
    if not os.path.exists(path):
        raise LabError(f"--dataset {text}: neither {' nor '.join(DIGESTS)} nor a folder")
    find_file(path, FILES["test"][1])
    name = os.path.basename(path)
    name = name.lower() if name.lower() in DIGESTS else name
    return DataSet(name, path, train_images, test_images)


def class_names(data_set):
    """Return the names of ten classes, a tuple of str: a folder's from its classes.txt, a line each, or numbers.

    Raises: DataError, classes.txt is not such a list.
    """
    if data_set.name in CLASSES:
        return CLASSES[data_set.name]
    path, names = Path(_absolute(data_set.folder), "classes.txt"), []
    if os.path.isfile(path):
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
    if len(names) > 10 or not "".join(names).isprintable():
        raise DataError(f"{path}: not a list of at most ten class names, a line each")
    return tuple(name or str(label) for label, name in enumerate((*names, *[""] * (10 - len(names)))))


def _absolute(path):
    return os.path.abspath(os.path.expanduser(path))
