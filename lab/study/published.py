"""Published runs: results/EXPERIMENT/runs.csv, a row per run, and predictions.npz, their arrays and labels.

Rows are added and never edited. To publish the finished runs of experiments, from saves/:

    python -m lab.study.published training_length why_it_helps
"""

import argparse
import csv
import io
import json
import logging
import re
from pathlib import Path

import numpy as np

from lab.guard.errors import LabError, run_main
from lab.guard.files import atomic_write
from lab.study.provenance import ROOT, arrays_digest
from lab.study.records import Run

RESULTS, SAVES = ROOT / "results", ROOT / "saves"
truth = {"True": True, "False": False, "": None}.__getitem__  # what is meant by the text of a bool
COLUMNS = {  # of runs.csv, with what reads them; a recipe's fields have its names
    "run": str,
    "variant": str,
    "seed": int,
    "data_set": str,
    "epochs": int,
    "batch_size": int,
    "learning_rate": float,
    "cosine_decay": truth,
    "precision": str,
    "threads": int,
    "train_images": int,
    "test_images": int,
    "epochs_done": int,
    "train_accuracy": float,
    "train_loss": float,
    "test_accuracy": float,
    "test_loss": float,
    "parameters": int,
    "seconds_per_epoch": float,
    "training_path": str,
    "weights_sha256": str,
    "arrays_sha256": str,
    "labels_sha256": str,
    "images_sha256": str,  # of what the model was trained and evaluated on, after selection and transformation
    "data_sha256": str,  # of the whole data set
    "model_sha256": str,
    "training_code": str,
    "changes_code": str,
    "model_code": str,
    "tensorflow": str,
    "keras": str,
    "numpy": str,
    "packages": str,  # other packages that took part
    "python": str,
    "processor": str,
    "gpus": str,
    "commit": str,
    "dirty": truth,  # whether the checkout differed from the commit
    "date": str,
    "first_committed_in": str,  # of runs that did not record their commit: the first one that has them
    "history": json.loads,
}

logger = logging.getLogger(__name__)


def read_records(folder):
    """Return the records of an experiment's published runs, dicts by COLUMNS; [] if there are none.

    Raises: LabError, the file is not one of this form.
    """
    path = Path(folder) / "runs.csv"
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: COLUMNS[name](text) for name, text in row.items()} for row in csv.DictReader(file)]
    except Exception as error:  # whatever its readers happen to raise
        raise LabError(f"{path}: not a table of published runs ({type(error).__name__}: {error})") from error


def read_runs(folder, records):
    """Return the published Runs of some records, a list. Raises: LabError, arrays are missing or are not theirs."""
    runs, path = [], Path(folder) / "predictions.npz"
    try:
        with np.load(path) as content:
            names = [name.split("/", 1) for name in content.files]
            for record in records:
                run = record["run"]
                arrays = {name: content[f"{run}/{name}"] for owner, name in names if owner == run}
                labels = content[f"labels/{record['labels_sha256'][:12]}"]
                digests = arrays_digest(arrays.values()), arrays_digest([labels])
                if digests != (record["arrays_sha256"], record["labels_sha256"]):
                    raise ValueError(f"the arrays of {run} are not those that its row is about")
                runs.append(Run(record, arrays, labels))
    except Exception as error:  # whatever its readers happen to raise
        raise LabError(f"{path}: corrupt ({type(error).__name__}: {error})") from error
    return runs


def publish(folder, runs):
    """Add Runs to an experiment's published ones, but for those that are there; return how many were added.

    Raises: LabError, a run is of code that no commit has, or the files cannot be written.
    """
    folder = Path(folder)
    published = {record["run"] for record in read_records(folder)}
    # two folders with the same images have the same runs
    added = list({run.record["run"]: run for run in runs if run.record["run"] not in published}.values())
    for run in added:
        if run.record["dirty"] is not False and not run.record["first_committed_in"]:
            raise LabError(f"{run.record['run']}: made from code that was not committed; run it again from a commit")
    if not added:
        return 0
    text, content = io.StringIO(newline=""), {}
    rows = csv.writer(text, lineterminator="\n")
    if (folder / "runs.csv").exists():  # as it is, byte for byte
        text.write((folder / "runs.csv").read_text(encoding="utf-8"))
        with np.load(folder / "predictions.npz") as arrays:
            content = {name: arrays[name] for name in arrays.files}
    else:
        rows.writerow(COLUMNS)
    for run in added:
        record = {**run.record, "history": json.dumps(run.record["history"])}
        rows.writerow(record[name] for name in COLUMNS)
        content |= {f"{run.record['run']}/{name}": array for name, array in run.arrays.items()}
        content[f"labels/{run.record['labels_sha256'][:12]}"] = run.labels
    with atomic_write(folder / "predictions.npz") as temporary:  # first: a row is never without its arrays
        np.savez_compressed(temporary, **content)
    with atomic_write(folder / "runs.csv") as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="\n")
    return len(added)


def main(argv=None):
    """Publish the finished runs of experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="name of its script, without .py")
    for name in parser.parse_args(argv).experiments:
        # those of other data sets are a folder deeper, and so are those of --smoke and --train-images
        folders = [SAVES / name, *sorted(SAVES.glob(f"*/{name}"))]
        folders = [each for each in folders if not re.fullmatch(r"smoke|first-\d+", each.parent.name)]
        paths = [path for folder in folders for path in sorted(folder.glob("[!.]*.npz"))]
        if not paths:
            raise LabError(f"{SAVES / name}: no finished runs; `python {name}.py` makes them")
        added = publish(RESULTS / name, map(Run.from_file, paths))
        print(f"{name}: {added} runs added, {len(paths) - added} were there")


if __name__ == "__main__":
    run_main(main)
