"""Many runs of one experiment, each a process of its own with two threads: here or on a Dask cluster, none done twice.

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
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lab import DAMAGE, LabError, replacing, require_writable
from lab.data import digests, load_splits
from lab.recipe import Recipe, train, versions
from lab.store import predict

ROOT = Path(__file__).resolve().parent.parent
THREADS = 2  # of a run; with one, two runs at once take as long as one after the other
ATTEMPTS = 3  # of a run whose process or worker is lost
FORESEEN = 3  # exit code of a run that ends with a LabError; a traceback's is 1

logger = logging.getLogger(__name__)


def measure_predictions(model, record, train_split, test_split):
    """Ask a trained model what it says of all images that its run has seen.

    Returns:
        dict of arrays. For the n test images: `predicted` class, uint8 (n,); `log_probability` of the actual class and
        `confidence`, the probability of the predicted class, float16 (n,). For the training images: `train_right`,
        whether the model is right, as bits (numpy.packbits).
    """
    train_n, test_n = record["train"]["n"], record["test"]["n"]
    probabilities = _probabilities(model, test_split.images[:test_n])
    predicted = probabilities.argmax(axis=1).astype(np.uint8)
    each = np.arange(test_n)
    actual = np.maximum(probabilities[each, test_split.labels[:test_n]], np.finfo(np.float32).tiny)
    right = _probabilities(model, train_split.images[:train_n]).argmax(axis=1) == train_split.labels[:train_n]
    return {
        "predicted": predicted,
        "log_probability": np.log(actual).astype(np.float16),
        "confidence": probabilities[each, predicted].astype(np.float16),
        "train_right": np.packbits(right),
    }


def _probabilities(model, images):
    return np.concatenate([predict(model, images[start : start + 10_000]) for start in range(0, len(images), 10_000)])


class Variant(NamedTuple):
    """One arm of an experiment: a model, what of the images it gets to see, and what of it is kept."""

    label: str
    build_model: Callable  # returns an untrained Keras model
    view: Callable | None = None  # (images uint8 (n, 28, 28) of either split, seed) -> as many of the same kind
    choose: Callable | None = None  # (training labels, how many, seed) -> indices of so many images to train on
    measure: Callable = measure_predictions  # (model, record, train_split, test_split) -> dict of arrays
    uses: tuple = ()  # functions and constants by which these four decide the arrays


class Key(NamedTuple):
    """What distinguishes the runs of one experiment."""

    variant: str
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Run:
    """A finished run: its record, as `lab.recipe.train` makes it, and the arrays that its variant measures."""

    record: dict
    arrays: dict

    def to_bytes(self):
        """Return the run as the content of a compressed .npz file."""
        content = io.BytesIO()
        record = {**self.record, "arrays": list(self.arrays)}
        np.savez_compressed(content, record=json.dumps(record), **self.arrays)
        return content.getvalue()

    @classmethod
    def from_file(cls, path):
        """Read a run of a study.

        Raises:
            LabError: it is not one, or damaged.
        """
        try:
            with np.load(path) as content:
                arrays = {name: content[name] for name in content.files}
            record = json.loads(str(arrays.pop("record")))
            if record.pop("arrays", list(arrays)) != list(arrays):  # the first runs were published without
                raise ValueError("an array is missing")
            run = cls(record, arrays)
            run.key  # noqa: B018 - says whether the record is that of a study
        except DAMAGE as error:
            raise LabError(f"{path}: damaged ({type(error).__name__}: {error})") from error
        return run

    @property
    def key(self):
        """Return the Key of a study's run."""
        return Key(self.record["study"]["variant"], self.record["seed"], Recipe(**self.record["study"]["recipe"]))


def default_jobs():
    """Return how many cores this process may use: so many runs at once, which wait for memory by turns."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def run_study(script, plan, folder, data_dir=None, jobs=None, cluster=None, anew=False):
    """Do the runs of a plan that the folder does not have yet; return all of them.

    Args:
        script: name of the module whose VARIANTS, a dict of Variant by name, are studied
        plan: a Key for each run
        folder: where the runs are kept, a file each
        data_dir: as `lab.data.load_splits`
        jobs: processes at once on this machine, by default one for every core
        cluster: address of a Dask scheduler, instead of this machine
        anew: do all of them, whatever the folder has

    Returns:
        dict of Run by Key, in the order of the plan

    Raises:
        LabError: no data, no place to write to, a training that diverges, no cluster, or one of other versions.
    """
    variants = importlib.import_module(script).VARIANTS
    tasks, runs = {}, {}
    for key in plan:
        task = _task(script, key, variants[key.variant], data_dir)
        path = _path(folder, task)
        if os.path.exists(path) and not anew:
            try:
                runs[key] = Run.from_file(path)
                continue
            except LabError as error:
                logger.warning("done anew: %s", error)
        tasks[key] = task
    if tasks:
        require_writable(_path(folder, next(iter(tasks.values()))))
        if not cluster:
            load_splits(data_dir=data_dir)  # once, before all of them look for it
        _do(tasks, runs, folder, jobs or default_jobs(), cluster)
    others = len(list(Path(folder).glob("[!.]*.npz"))) - len(runs)
    if others > 0:
        logger.info("left out: %d other runs in %s", others, folder)
    return {key: runs[key] for key in plan}


def published(plan, folder):
    """Return a folder's runs of a plan, as `run_study` does, of the seeds that all variants in it have run.

    Raises:
        LabError: there are none, one is damaged, or they cannot be compared.
    """
    found = {}
    for path in sorted(Path(folder).glob("[!.]*.npz")):
        run = Run.from_file(path)
        if run.key in found:
            raise LabError(f"{path}: a second run of {run.key.variant}, seed {run.key.seed}; keep one of them")
        found[run.key] = run
    for part in ("versions", "data_sha256"):
        if len({json.dumps(run.record["study"][part]) for run in found.values()}) > 1:
            raise LabError(f"{folder}: runs of more than one {part.split('_')[0]}; they cannot be compared")
    present = {key.variant for key in plan if key in found}
    if not present:
        raise LabError(f"{folder}: no such runs in it; without --from-results they are done")
    wanted = [key for key in plan if key.variant in present]
    lacking = {key.seed for key in wanted if key not in found}
    runs = {key: found[key] for key in wanted if key.seed not in lacking}
    if not runs:
        raise LabError(f"{folder}: no seed that all variants have run; name fewer --variants")
    if len(runs) < len(plan):
        logger.warning("incomplete: %d of %d runs in %s can be compared", len(runs), len(plan), folder)
    return runs


def _task(script, key, variant, data_dir):
    """Return all that a process, here or elsewhere, must know to do a run, in JSON types."""
    # measure_predictions is left out: the first runs were published before there was another
    parts = [each for each in (*variant[1:5], *variant.uses) if each and each is not measure_predictions]
    code = "".join(inspect.getsource(part) if callable(part) else repr(part) for part in parts)
    decides = {
        "variant": key.variant,
        "recipe": asdict(key.recipe),
        "code_sha256": _sha256(code.encode()),
        "data_sha256": digests(),
        "versions": versions(),
    }
    return {
        "study": {**decides, "fingerprint": _sha256(json.dumps(decides, sort_keys=True).encode())},
        "seed": key.seed,
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
                        raise LabError(
                            f"{key.variant}, seed {key.seed}: lost {ATTEMPTS} times, last by {error}"
                        ) from error
                    logger.warning("lost, tried again: %s, seed %d (%s)", key.variant, key.seed, error)
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
        for other, run in self.runs.items():
            accuracies.setdefault(other.variant, []).append(100 * run.record["test"]["accuracy"])
        latest = list(dict.fromkeys(other.variant for other in reversed(self.runs)))[:8]
        table = ", ".join(
            f"{name} {statistics.mean(accuracies[name]):.2f} ({len(accuracies[name])})" for name in latest
        )
        time_left = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        logger.info(
            "study: %d of %d runs, about %s left; %s, seed %d; test accuracy so far: %s",
            *(done, self.total, time_left, key.variant, key.seed, table),
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
    for name in ("distributed", "distributed.client"):  # they log tracebacks of what they raise anyway
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
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
            raise LabError(f"\n{complaints}".partition("\nerror: ")[2].strip())
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
    variant = importlib.import_module(task["script"]).VARIANTS[task["study"]["variant"]]
    seed, recipe = task["seed"], Recipe(**task["study"]["recipe"])
    train_split, test_split = load_splits(data_dir=task["data_dir"])
    if variant.choose:
        chosen = variant.choose(train_split.labels, recipe.train_images, seed)
        train_split = train_split._replace(images=train_split.images[chosen], labels=train_split.labels[chosen])
    splits = train_split, test_split
    if variant.view:
        splits = [split._replace(images=variant.view(split.images, seed)) for split in splits]
    model, record = train(variant.build_model, recipe, seed, *splits, threads=THREADS)
    arrays = variant.measure(model, record, *splits)
    return Run({**record, "study": task["study"]}, arrays)


if __name__ == "__main__":
    main()
