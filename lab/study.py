"""Many runs of one experiment, each a process of its own on two cores: here or on a Dask cluster, none done twice.

A run is a variant of the experiment, a seed and a recipe. Finished, it is one file, written at once and whole; started
again, a study does only what is missing. The file's name holds the digest of all that decides the run, so that runs of
another recipe, model or library never meet. Every run has the same number of threads: its last bits depend on that, and
so do not on how many run at once, or where.
"""

import contextlib
import hashlib
import importlib
import inspect
import io
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab import LabError, replacing, require_writable
from lab.data import digests, load_splits
from lab.recipe import Recipe, train, versions
from lab.store import predict

ROOT = Path(__file__).resolve().parent.parent
# of a run: one thread takes a third longer, and two such runs at once take as long as one after the other
THREADS = 2
ATTEMPTS = 3  # of a run whose process or worker is lost
FORESEEN = 3  # exit code of a run that ends with a LabError; a traceback's is 1

logger = logging.getLogger(__name__)


class Variant(NamedTuple):
    """One arm of an experiment: a model, and what of the images it gets to see.

    `view` takes uint8 images (n, 28, 28) of either split and the seed, and returns as many of the same kind.
    """

    label: str
    build_model: Callable
    view: Callable | None = None


@dataclass(frozen=True)
class Run:
    """A finished run: its record, as `lab.recipe.train` makes it, and what the model says of every image.

    For the n test images: the predicted class, uint8 (n,); the logarithm of the probability of the actual class and the
    probability of the predicted class, float32 (n,), both rounded to half precision. For the training images: whether
    the model is right, bool (m,).
    """

    record: dict
    predicted: np.ndarray
    log_probability: np.ndarray
    confidence: np.ndarray
    train_right: np.ndarray

    @classmethod
    def of_model(cls, model, record, train_split, test_split):
        """Ask a trained model for its predictions of as many images, from the first on, as its record counts."""
        train_n, test_n = record["train"]["n"], record["test"]["n"]
        probabilities = _probabilities(model, test_split.images[:test_n])
        predicted = probabilities.argmax(axis=1).astype(np.uint8)
        each = np.arange(test_n)
        smallest = np.finfo(np.float32).tiny
        right = _probabilities(model, train_split.images[:train_n]).argmax(axis=1) == train_split.labels[:train_n]
        return cls(
            record,
            predicted,
            _halved(np.log(np.maximum(probabilities[each, test_split.labels[:test_n]], smallest))),
            _halved(probabilities[each, predicted]),
            right,
        )

    def to_bytes(self):
        """Return the run as the content of a compressed .npz file."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            record=json.dumps(self.record),
            predicted=self.predicted,
            log_probability=self.log_probability.astype(np.float16),
            confidence=self.confidence.astype(np.float16),
            train_right=np.packbits(self.train_right),
        )
        return content.getvalue()

    @classmethod
    def from_file(cls, path):
        """Read a run.

        Raises:
            LabError: it is not one, or damaged.
        """
        try:
            with np.load(path) as content:
                record = json.loads(str(content["record"]))
                right = np.unpackbits(content["train_right"], count=record["train"]["n"]).astype(bool)
                run = cls(
                    record,
                    content["predicted"],
                    content["log_probability"].astype(np.float32),
                    content["confidence"].astype(np.float32),
                    right,
                )
            whole = record["study"]["fingerprint"] and len(run.predicted) == record["test"]["n"] == len(run.confidence)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise LabError(f"{path}: damaged ({type(error).__name__}: {error})") from error
        if not whole:
            raise LabError(f"{path}: damaged (its parts do not fit together)")
        return run


def _probabilities(model, images):
    return np.concatenate([predict(model, images[start : start + 10_000]) for start in range(0, len(images), 10_000)])


def _halved(values):
    return values.astype(np.float16).astype(np.float32)


def default_jobs():
    """Return how many runs the cores that this process may use are enough for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, cores // THREADS)


def run_study(script, names, seeds, recipe, folder, data_dir=None, jobs=None, cluster=None, anew=False):
    """Do the runs that the folder does not have yet; return all of them.

    Args:
        script: name of the module whose VARIANTS, a dict of Variant by name, are studied
        names: of the variants to run
        seeds: of the runs of each variant
        recipe: lab.recipe.Recipe
        folder: where the runs are kept, a file each
        data_dir: as `lab.data.load_splits`
        jobs: processes at once on this machine, by default one for every two cores
        cluster: address of a Dask scheduler, instead of this machine
        anew: do all of them, whatever the folder has

    Returns:
        dict of Run by (name, seed), in the order of the names

    Raises:
        LabError: no data, no place to write to, a training that diverges, no cluster, or one of other versions.
    """
    variants = importlib.import_module(script).VARIANTS
    tasks, runs = {}, {}
    for seed in seeds:  # the outer loop, so that all variants grow together
        for name in names:
            task = _task(script, name, variants[name], seed, recipe, data_dir)
            path = _path(folder, task)
            if path.exists() and not anew:
                try:
                    runs[name, seed] = Run.from_file(path)
                    continue
                except LabError as error:
                    logger.warning("done anew: %s", error)
            tasks[name, seed] = task
    if tasks:
        require_writable(_path(folder, next(iter(tasks.values()))))
        if not cluster:
            load_splits(data_dir=data_dir)  # once, before all of them look for it
        _do(tasks, runs, folder, jobs or default_jobs(), cluster)
    others = len(list(Path(folder).glob("*.npz"))) - len(runs)
    if others > 0:
        logger.info("left out: %d other runs in %s", others, folder)
    return {(name, seed): runs[name, seed] for name in names for seed in seeds}


def published(folder, names):
    """Return a folder's runs of the named variants, as `run_study` does, of the seeds that all of them have.

    Raises:
        LabError: there are none, one is damaged, or they cannot be compared.
    """
    runs = {path: Run.from_file(path) for path in sorted(Path(folder).glob("*.npz"))}
    for part in ("recipe", "versions", "data_sha256"):
        if len({json.dumps(run.record["study"][part]) for run in runs.values()}) > 1:
            raise LabError(f"{folder}: runs of more than one {part.split('_')[0]}; they cannot be compared")
    found = {}
    for path, run in runs.items():
        key = run.record["study"]["variant"], run.record["seed"]
        if key in found:
            raise LabError(f"{path}: a second run of {key[0]}, seed {key[1]}, by other code; keep one of them")
        found[key] = run
    present = [name for name in names if any(key[0] == name for key in found)]
    if not present:
        raise LabError(f"{folder}: no runs in it; without --from-results they are done")
    seeds = set.intersection(*({seed for variant, seed in found if variant == name} for name in present))
    paired = {(name, seed): found[name, seed] for name in present for seed in sorted(seeds)}
    others = sum(variant in present for variant, _ in found) - len(paired)
    if others or not paired:
        logger.warning("left out: %d runs in %s, of seeds that not all variants have", others, folder)
    if not paired:
        raise LabError(f"{folder}: no seed that all variants have; name fewer --variants")
    return paired


def _task(script, name, variant, seed, recipe, data_dir):
    """Return all that a process, here or elsewhere, must know to do a run, in JSON types."""
    functions = [each for each in (variant.build_model, variant.view) if each]
    decides = {
        "variant": name,
        "recipe": asdict(recipe),
        "code_sha256": _sha256("".join(map(inspect.getsource, functions)).encode()),
        "data_sha256": digests(),
        "versions": versions(),
    }
    return {
        "study": {**decides, "fingerprint": _sha256(json.dumps(decides, sort_keys=True).encode())},
        "seed": seed,
        "script": script,
        "source_sha256": _source_digest(script),
        "data_dir": str(Path(data_dir).absolute()) if data_dir else None,
    }


def _path(folder, task):
    return Path(folder) / f"{task['study']['variant']}-{task['seed']}-{task['study']['fingerprint'][:12]}.npz"


def _source_digest(script):
    """Return the digest of the code that a run goes through, beyond what decides its identity."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), ROOT / f"{script}.py"]
    return _sha256(b"".join(path.read_bytes() for path in paths))


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _do(tasks, runs, folder, jobs, cluster):
    """Do the tasks; add each run to `runs` and to the folder as soon as it is finished."""
    progress = _Progress(len(tasks) + len(runs), runs)
    with _cluster_executor(cluster) if cluster else _local_executor(jobs) as executor:
        pending = {executor.submit(perform, task): key for key, task in tasks.items()}
        losses = dict.fromkeys(tasks, 0)
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                key = pending.pop(future)
                try:
                    content = future.result()
                except CancelledError as error:
                    raise LabError(
                        "the cluster is lost; the finished runs are kept, start again for the rest"
                    ) from error
                except RunLost as error:
                    losses[key] += 1
                    if losses[key] == ATTEMPTS:
                        raise LabError(f"{key[0]}, seed {key[1]}: lost {ATTEMPTS} times, last by {error}") from error
                    logger.warning("lost, tried again: %s, seed %d (%s)", *key, error)
                    pending[executor.submit(perform, tasks[key])] = key
                    continue
                path = _path(folder, tasks[key])
                with replacing(path) as partial:
                    partial.write_bytes(content)
                runs[key] = Run.from_file(path)
                progress.show(key)


class _Progress:
    """Says after each run how many are done, how long the rest will take, and the mean accuracies so far."""

    def __init__(self, total, runs):
        self.total, self.runs = total, runs
        self.before, self.started = len(runs), time.monotonic()
        if self.before:
            logger.info("study: %d of %d runs are there", self.before, total)

    def show(self, key):
        done = len(self.runs)
        left = (time.monotonic() - self.started) / (done - self.before) * (self.total - done)
        accuracies = {}
        for (name, _), run in self.runs.items():
            accuracies.setdefault(name, []).append(100 * run.record["test"]["accuracy"])
        table = ", ".join(f"{name} {statistics.mean(each):.2f} ({len(each)})" for name, each in accuracies.items())
        time_left = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        logger.info(
            "study: %d of %d runs, about %s left; %s, seed %d; test accuracy so far: %s",
            *(done, self.total, time_left, *key, table),
        )


class RunLost(Exception):
    """A run's process was killed; another attempt may succeed."""


_children = set()


@contextlib.contextmanager
def _local_executor(jobs):
    """Yield an executor of so many runs at once, each waited for by a thread."""
    executor = ThreadPoolExecutor(jobs)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in list(_children):
            process.kill()


@contextlib.contextmanager
def _cluster_executor(address):
    """Yield the executor of a Dask cluster (https://distributed.dask.org/en/stable/api.html: Client.get_executor)."""
    try:
        from distributed import Client
    except ImportError as error:
        raise LabError("--cluster needs Dask; pip install -r requirements-cluster.txt") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise LabError(f"--cluster {address}: no Dask scheduler answers there ({error})") from error
    executor = client.get_executor(pure=False)
    try:
        if not client.scheduler_info()["workers"]:
            logger.warning("%s has no workers yet; waiting for one", address)
        yield executor
    finally:
        executor.shutdown(wait=False)
        client.close(timeout=2)


def perform(task):
    """Do one run in a process of its own, which ends when this one does; return its file's content.

    Raises:
        LabError: what the process says, in one line.
        RunLost: it was killed.
        RuntimeError: it failed in a way that nobody foresaw, with its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        command = [sys.executable, "-m", "lab.study", str(path)]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            _children.add(process)
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(task) + "\n")
                    process.stdin.flush()  # and left open: its end tells the process that nobody waits any more
                complaints = process.stderr.read()
                process.wait()
            finally:
                process.kill()
                _children.discard(process)
        if process.returncode < 0:
            raise RunLost(f"signal {-process.returncode}")
        if process.returncode == FORESEEN:
            raise LabError(complaints.rpartition("error: ")[2].strip())
        if process.returncode:
            raise RuntimeError(complaints.strip())
        return path.read_bytes()


def main():
    """Do the run that standard input describes, in this process; write it to the path given."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        Path(sys.argv[1]).write_bytes(_run(task).to_bytes())
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(FORESEEN)


def _exit_with_parent():
    sys.stdin.read()
    os._exit(2)


def _run(task):
    here = socket.gethostname()
    for package, wanted in task["study"]["versions"].items():
        if versions()[package] != wanted:
            raise LabError(f"{here} has {package} {versions()[package]} instead of {wanted}; install the same")
    if _source_digest(task["script"]) != task["source_sha256"]:
        raise LabError(f"{here} has another version of this project's code; bring it up to date")
    name, seed = task["study"]["variant"], task["seed"]
    variant = importlib.import_module(task["script"]).VARIANTS[name]
    splits = load_splits(data_dir=task["data_dir"])
    if variant.view:
        splits = [split._replace(images=variant.view(split.images, seed)) for split in splits]
    recipe = Recipe(**task["study"]["recipe"])
    model, record = train(variant.build_model, recipe, seed, *splits, threads=THREADS)
    return Run.of_model(model, {**record, "study": task["study"]}, *splits)


if __name__ == "__main__":
    main()
