"""Many runs of one experiment, each in a separate process: on this machine or on a Dask cluster, none done twice.

A run is a variant of the experiment, a seed and a recipe. A finished run is one file, written atomically. A
study that is started again does only the missing runs. A run's file name holds the digest of all that decides
it (lab/plumbing/provenance.py), so that a run is never mistaken for one of another recipe, code, model or library.
"""

import functools
import importlib
import io
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab.data import file_digests, load_data
from lab.plumbing.digests import arrays_digest, code_digest
from lab.plumbing.errors import LabError
from lab.plumbing.executors import run_tasks, serve_task
from lab.plumbing.files import atomic_write, require_writable
from lab.plumbing.provenance import describe_code, describe_training, differing_parts
from lab.plumbing.results import Run, changed_since, make_record, run_path
from lab.recipe import Recipe, initialize_model, predict, train

logger = logging.getLogger(__name__)


def unchanged(images):
    """Return the images as they are."""
    return images


def collect_predictions(model, test_split, prepare=unchanged):
    """Return what a trained model predicts for n test images, after `prepare` has changed them; a dict of arrays.

    `predicted` class, uint8 (n,); `log_probability` of the actual class and `confidence`, the probability of the
    predicted class, float16 (n,).
    """
    probabilities = predict(model, prepare(test_split.images))
    predicted = probabilities.argmax(axis=1).astype(np.uint8)
    each = np.arange(len(predicted))
    actual = np.maximum(probabilities[each, test_split.labels], np.finfo(np.float32).tiny)
    return {
        "predicted": predicted,
        "log_probability": np.log(actual).astype(np.float16),
        "confidence": probabilities[each, predicted].astype(np.float16),
    }


def collect_predicted(model, test_split, prepare):
    """Return the predicted class of each test image only, as `collect_predictions` does."""
    return {"predicted": collect_predictions(model, test_split, prepare)["predicted"]}


@dataclass(frozen=True)
class Variant:
    """One arm of an experiment. Only what affects the result identifies a run: a changed label causes no rerun."""

    label: str  # in tables and figures
    build_model: Callable  # as `lab.recipe.initialize_model`
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
        return cls(record["variant"], record["made_of"]["seed"], Recipe(**record["made_of"]["recipe"]))

    def __str__(self):
        return f"{self.variant}, seed {self.seed}"


def run_study(script, plan, folder, data_dir=None, jobs=None, cluster=None, retrain=False):
    """Do the runs of a plan that the folder does not have yet; return all of them.

    Args:
        script: name of the module whose VARIANTS, a dict of Variant by name, are studied
        plan, folder: a RunKey for each run, and where the runs are kept, a file each
        data_dir: as `lab.data.load_data`
        jobs, cluster: processes at once on this machine, by default one for each core, or address of a Dask scheduler
        retrain: do all of them, whatever the folder has

    Returns: dict of Run by RunKey, in the order of the plan
    Raises: LabError, no data, no place to write to, a training that diverges, no cluster, or one with other code.
    """
    variants, splits = importlib.import_module(script).VARIANTS, load_data(data_dir)
    data_dir = str(Path(data_dir).absolute()) if data_dir else None
    tasks, paths, runs, changed = {}, {}, {}, set()
    for key in plan:
        made_of = _describe_run(variants[key.variant], key, splits)
        path = paths[key] = run_path(folder, key.variant, made_of)
        if os.path.exists(path) and not retrain:
            try:
                runs[key] = Run.from_file(path)
                continue
            except LabError as error:
                logger.warning("rerun: %s", error)
        changed.update(changed_since(path, key.variant, made_of))
        tasks[key] = {"script": script, "variant": key.variant, "made_of": made_of, "data_dir": data_dir}
    if changed:
        logger.info("rerun: changed since earlier runs: %s", ", ".join(sorted(changed)))
    if tasks:
        require_writable(paths[next(iter(tasks))])
        before, started = len(runs), time.monotonic()
        if before:
            logger.info("study: %d of %d runs found", before, len(plan))
        for key, content in run_tasks("lab.study", tasks, jobs, cluster):
            with atomic_write(paths[key]) as temporary:
                temporary.write_bytes(content)
            runs[key] = Run.from_file(paths[key])
            minutes = (time.monotonic() - started) / 60 / (len(runs) - before) * (len(plan) - len(runs))
            state = f"{len(runs)} of {len(plan)} runs, about {minutes:.1f} min left"
            logger.info("study: %s; %s: accuracy %.4f", state, key, runs[key].record["test"]["accuracy"])
    if others := max(0, len(list(Path(folder).glob("[!.]*.npz"))) - len(runs)):
        logger.info("ignored: %d other runs in %s", others, folder)
    return {key: runs[key] for key in plan}


def published_runs(script, plan, folder):
    """Return a folder's runs of a plan, as `run_study` does, of the seeds that all its variants have.

    Raises: LabError, there are none, one is corrupt, or they cannot be compared.
    """
    variants = importlib.import_module(script).VARIANTS
    found = {}
    for path in sorted(Path(folder).glob("[!.]*.npz")):
        run = Run.from_file(path)
        try:
            key = RunKey.from_record(run.record)
        except (KeyError, TypeError) as error:
            raise LabError(f"{path}: not a run of this version of the project ({error})") from error
        if key in found:
            raise LabError(f"{path}: a second run of {key}; keep one of them")
        found[key] = run
    for part in ("versions", "training code"):
        if len({json.dumps(run.record["made_of"].get(part)) for run in found.values()}) > 1:
            raise LabError(f"{folder}: runs with different {part}; they cannot be compared")
    present = {key.variant for key in plan if key in found}
    if not present:
        raise LabError(f"{folder}: it has none of these runs; without --from-results they are done")
    missing = {key.seed for key in plan if key.variant in present and key not in found}
    runs = {key: found[key] for key in plan if key.variant in present and key.seed not in missing}
    if not runs:
        raise LabError(f"{folder}: no seed for which all variants have a run; name fewer --variants")
    if len(runs) < len(plan):
        logger.warning("incomplete: %d of %d runs in %s can be compared", len(runs), len(plan), folder)
    changed = set()
    for key, run in runs.items():
        variant = variants[key.variant]
        code = {**describe_code(variant.build_model, TRAINING), **_describe_measurement(variant)}
        changed.update(name for name in code if run.record["made_of"].get(name) != code[name])
    if changed:
        logger.warning("note: the published runs were made by different %s", ", ".join(sorted(changed)))
    return runs


def _describe_run(variant, key, splits):
    images = file_digests()
    if variant.select or variant.transform:
        selected, prepare = _select_data(variant, key, splits)
        images = arrays_digest([array for split in selected for array in (prepare(split.images), split.labels)])
    training = describe_training(initialize_model, variant.build_model, TRAINING, key.recipe, key.seed, images)
    return {**training, **_describe_measurement(variant)}


def _describe_measurement(variant):
    return {"measurement code": code_digest(variant.collect, variant.transform)}


def _select_data(variant, key, splits):
    """Return the Splits to train, evaluate and validate on, and the function that changes their images for the model.

    The last is missing if the run has no validation set.
    """
    train_split, test_split = splits
    selected = train_split.first(key.recipe.train_images), test_split.first(key.recipe.test_images)
    if variant.select:
        selected = variant.select(*selected, key.seed)
    return selected, functools.partial(variant.transform, seed=key.seed) if variant.transform else unchanged


def _train_variant(variant, key, splits):
    """Return the record of a training, and the arrays that its experiment keeps."""
    selected, prepare = _select_data(variant, key, splits)
    prepared = [split._replace(images=prepare(split.images)) for split in selected]
    model, history, scores = train(variant.build_model, key.recipe, key.seed, *prepared)
    return make_record(model, history, scores), variant.collect(model, selected[1], prepare)


TRAINING = load_data, _train_variant  # the code that decides a training, but for its model


def _do_run(task):
    """Do the run that a task describes, in this process; return its file's content."""
    variant = importlib.import_module(task["script"]).VARIANTS[task["variant"]]
    key = RunKey.from_record(task)
    splits = load_data(task["data_dir"])
    changed = differing_parts(task["made_of"], _describe_run(variant, key, splits))
    if changed:
        raise LabError(f"{socket.gethostname()} has different {', '.join(changed)}; bring its project up to date")
    record, arrays = _train_variant(variant, key, splits)
    content = io.BytesIO()
    Run({"variant": key.variant, "made_of": task["made_of"], **record}, arrays).save(content)
    return content.getvalue()


if __name__ == "__main__":
    serve_task(_do_run)
