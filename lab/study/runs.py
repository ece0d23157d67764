"""Many runs of one experiment, each in a separate process: on this machine or on a Dask cluster, none done twice.

A run is a variant of the experiment, a seed and a recipe. A finished run is one file, written atomically. A study that
is started again does only the missing runs. A run's name holds the digest of all that decides it
(lab/study/provenance.py), so that a run is never mistaken for one of another recipe, code, model or library.
"""

import functools
import glob
import importlib
import io
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.guard.errors import LabError
from lab.guard.files import atomic_write, require_writable
from lab.study import provenance, published
from lab.study.executors import run_tasks, serve_task
from lab.study.provenance import ROOT, arrays_digest, code_digest, differing_parts, is_top_level, own_files
from lab.study.records import Checkpoint, Run, describe_result
from lab.training.data import DIGESTS, DataSet, data_digest, load_data
from lab.training.predictions import collect_predictions, unchanged
from lab.training.recipe import Recipe, train
from lab.training.startup import start_tensorflow

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment. Only what affects the result identifies a run: a changed label causes no rerun."""

    label: str  # in tables and figures
    build_model: Callable  # as `lab.training.recipe.initialize_model`
    transform: Callable | None = None  # (images uint8 (n, 28, 28) of either split, seed) -> as many
    select: Callable | None = None  # (training Split, test Split, seed) -> Splits to train, evaluate and validate on
    collect: Callable = collect_predictions  # (trained model, evaluated Split, transform) -> dict of arrays to keep
    settings: dict = field(default_factory=dict)  # what the variant was made with, for tables and axes


class RunKey(NamedTuple):
    """What tells the runs of one experiment apart."""

    variant: str
    seed: int
    recipe: Recipe

    @classmethod
    def from_record(cls, record):
        """Return the key of a finished run or of a task."""
        recipe = Recipe(**{each.name: record[each.name] for each in fields(Recipe)})
        return cls(record["variant"], record["seed"], recipe)

    def __str__(self):
        return f"{self.variant}, seed {self.seed}"


def run_study(script, plan, folder, data_set, jobs=None, cluster=None, retrain=False):
    """Do the runs of a plan that neither the folder nor results/ has yet; return all of them.

    Args:
        script: path of the file whose VARIANTS, a dict of Variant by name, are studied
        plan, folder: a RunKey for each run, and where the runs are kept, a file each
        data_set: lab.training.data.DataSet
        jobs, cluster: processes at once on this machine, by default one for each core, or address of a Dask scheduler
        retrain: do all of them, whatever there is

    Returns: dict of Run by RunKey, in the order of the plan
    Raises: LabError, no data, no place to write to, a training that diverges, no cluster, or code that changes.
    """
    script = Path(script).resolve()
    variants, splits = load_variants(script), load_data(data_set)
    _image_digests.clear()  # an earlier study's splits are gone, and others may have their ids
    # as another machine finds it: relative to the project, if it is in there
    place = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else str(script)
    start_tensorflow(plan[0].recipe.threads, plan[0].recipe.precision)
    results = published.RESULTS / script.stem
    known = {record["run"]: record for record in published.read_records(results)}
    tasks, paths, runs, changed = {}, {}, {}, set()
    for key in plan:
        decided_by = describe_run(script, variants[key.variant], key, splits)
        name = f"{key.variant}-{key.seed}-{provenance.text_digest(json.dumps(decided_by, sort_keys=True))[:12]}"
        paths[key] = Path(folder) / f"{name}.npz"
        run = None if retrain else _find_run(paths[key], results, known.get(name))
        if run:
            runs[key] = run
        else:
            changed.update(_changed_since_earlier_runs(paths[key], key, decided_by))
            task = {"run": name, "variant": key.variant, "decided_by": decided_by}
            # an interrupted run goes on after its last epoch, where this study's folder is at hand
            checkpoint = "" if cluster or retrain else str(_checkpoint_path(paths[key]))
            tasks[key] = {**task, "script": place, "data_set": asdict(data_set), "checkpoint": checkpoint}
    if changed:
        logger.info("rerun: changed since earlier runs: %s", ", ".join(sorted(changed)))
    if tasks:
        require_writable(paths[next(iter(tasks))])
        before, started = len(runs), time.monotonic()
        if before:
            logger.info("study: %d of %d runs found", before, len(plan))
        for key, content in run_tasks("lab.study.runs", tasks, jobs, cluster):
            with atomic_write(paths[key]) as temporary:
                temporary.write_bytes(content)
            _checkpoint_path(paths[key]).unlink(missing_ok=True)
            runs[key] = Run.from_file(paths[key])
            minutes = (time.monotonic() - started) / 60 / (len(runs) - before) * (len(plan) - len(runs))
            state = f"{len(runs)} of {len(plan)} runs, about {minutes:.1f} min left"
            logger.info("study: %s; %s: accuracy %.4f", state, key, runs[key].record["test_accuracy"])
    return {key: runs[key] for key in plan}


def _checkpoint_path(path):
    return path.absolute().with_name(f".{path.stem}.checkpoint.npz")


def _find_run(path, results, record):
    """Return the finished Run of a path, or else the published one of a record; None if there is neither."""
    if os.path.exists(path):
        try:
            return Run.from_file(path)
        except LabError as error:
            logger.warning("rerun: %s", error)
    return published.read_runs(results, [record])[0] if record else None


def _changed_since_earlier_runs(path, key, decided_by):
    """Return what differs from the most similar earlier run of the same variant, seed and recipe; [] without one."""
    differences = []
    for other in path.parent.glob(f"{glob.escape(key.variant)}-{key.seed}-*.npz"):
        try:
            record = Run.from_file(other).record
            if RunKey.from_record(record) == key:
                differences.append(differing_parts({name: record[name] for name in decided_by}, decided_by))
        except (LabError, KeyError, TypeError):  # a file with a record of another form
            continue
    return min(differences, key=len, default=[])


def load_variants(script):
    """Return the VARIANTS of a script, a file. Raises: LabError, its name is that of another module."""
    path = Path(script).resolve()
    if sys.path[0] != str(path.parent):
        sys.path.insert(0, str(path.parent))  # also for what it imports from beside it
    module = importlib.import_module(path.stem)
    if Path(module.__file__).resolve() != path:
        raise LabError(f"{script}: another module has this name, {module.__file__}; give the script a name of its own")
    return module.VARIANTS


def describe_run(script, variant, key, splits):
    """Return all that decides a run on a given processor, a dict of JSON types.

    Where a closure, a partial or an object measures, or is part of the model, the script counts, too: it may have made
    them with values that no digest has. What transforms and selects counts through the images.
    """
    model, parts = provenance.describe_model(variant.build_model, key.recipe.precision)
    model_files = own_files(parts, () if all(map(is_top_level, parts)) else (script,))
    changes = variant.transform, variant.select, variant.collect
    change_files = own_files(changes, () if is_top_level(variant.collect) else (script,))
    return {
        **asdict(key.recipe),
        "seed": key.seed,
        "images_sha256": _images_digest(variant, key.seed, splits),
        "model_sha256": model,
        "training_code": provenance.training_code(),
        "changes_code": code_digest(change_files),
        "model_code": code_digest(model_files),
        **provenance.library_versions(),
        "packages": provenance.package_versions([*change_files, *model_files]),
    }


_image_digests = {}


def _images_digest(variant, seed, splits):
    """Return the digest of what a model is trained, evaluated and validated on."""
    changes = variant.select, variant.transform
    key = (*changes, seed if any(changes) else 0, *map(id, splits))
    if key not in _image_digests:
        selected, prepare = _select_data(variant, seed, splits)
        arrays = [array for split in selected for array in (prepare(split.images), split.labels)]
        _image_digests[key] = arrays_digest(arrays)
    return _image_digests[key]


def _select_data(variant, seed, splits):
    """Return the Splits to train, evaluate and validate on, and the function that changes their images for the model.

    The last Split is missing if the run has no validation set.
    """
    selected = variant.select(*splits, seed) if variant.select else splits
    return selected, functools.partial(variant.transform, seed=seed) if variant.transform else unchanged


def _do_run(task):
    """Do the run that a task describes, in this process; return its file's content."""
    decided_by, data_set, script = task["decided_by"], DataSet(**task["data_set"]), ROOT / task["script"]
    key = RunKey.from_record({**decided_by, "variant": task["variant"]})
    start_tensorflow(key.recipe.threads, key.recipe.precision)
    variant, splits = load_variants(script)[key.variant], load_data(data_set)
    _require_same(decided_by, describe_run(script, variant, key, splits))
    selected, prepare = _select_data(variant, key.seed, splits)
    prepared = [split._replace(images=prepare(split.images)) for split in selected]
    checkpoint = None
    if task["checkpoint"] and len(prepared) == 2:  # early stopping cannot be resumed
        checkpoint = Checkpoint(task["checkpoint"], decided_by, resume=True)
    model, history, scores = train(variant.build_model, key.recipe, key.seed, *prepared, checkpoint=checkpoint)
    measured = variant.collect(model, selected[1], prepare)
    arrays = {name: np.asarray(value) for name, value in measured.items()}
    # the code was not edited between import and digest
    _require_same(decided_by, describe_run(script, variant, key, splits))
    record = {
        "run": task["run"],
        "variant": key.variant,
        "data_set": data_set.name,
        "data_sha256": data_digest(data_set),
        **decided_by,
        **describe_result(model, history, scores),
        "arrays_sha256": arrays_digest(arrays.values()),
        "labels_sha256": arrays_digest([selected[1].labels]),
        "first_committed_in": "",
    }
    content = io.BytesIO()
    Run(record, arrays, selected[1].labels).save(content)
    return content.getvalue()


def _require_same(before, now):
    changed = differing_parts(before, now)
    if changed:
        host, kept = socket.gethostname(), "finished runs are kept, start the study again for the rest"
        raise LabError(f"{', '.join(changed)} on {host} differ from when this study started; {kept}")


def published_runs(script, plan, data_set):
    """Return an experiment's published runs of a plan, as `run_study` does, of the variants that have all their seeds.

    If runs were made by different code or libraries, only those of the largest part are compared. That the data set is
    theirs is not checked if it is only named, and not among the known ones.

    Raises: LabError, there are none, they are corrupt, or their predictions are for other images.
    """
    folder = published.RESULTS / Path(script).stem
    parts = {}
    for record in published.read_records(folder):
        key = RunKey.from_record(record)
        if key in plan and record["data_set"] == data_set.name:
            made_by = tuple(record[name] for name in ("training_code", "tensorflow", "keras", "numpy"))
            parts.setdefault(made_by, {})[key] = record
    found = max(parts.values(), key=len, default={})
    if not found:
        raise LabError(f"{folder}: it has none of these runs on {data_set.name}; without --from-results they are done")
    sha256 = {"", data_digest(data_set)} if data_set.folder or data_set.name in DIGESTS else None
    for record in found.values():
        if sha256 and record["data_sha256"] not in sha256:
            raise LabError(f"{folder}: its predictions are for other images than those of this {data_set.name}")
    incomplete = {key._replace(seed=None) for key in plan if key not in found}
    keys = [key for key in plan if key._replace(seed=None) not in incomplete]
    if not keys:
        raise LabError(f"{folder}: no variant has runs of all these seeds; ask for fewer --seeds")
    if len(keys) < len(plan):
        logger.warning("incomplete: %d of %d runs in %s can be compared", len(keys), len(plan), folder)
    for name, what in (("commit", "made by"), ("first_committed_in", "first committed in")):
        if commits := dict.fromkeys(found[key][name][:7] for key in keys if found[key][name]):
            logger.info("published: %d runs, %s %s", len(keys), what, ", ".join(commits))
    return dict(zip(keys, published.read_runs(folder, [found[key] for key in keys]), strict=True))


if __name__ == "__main__":
    serve_task(_do_run)
