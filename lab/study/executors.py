"""Run tasks, dicts of JSON types, each by `python -m MODULE PATH`, on this machine or on a Dask cluster.

That process reads the task as a line of standard input, writes the result to the path, and ends with its parent.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from pathlib import Path

from lab.guard.errors import LabError, exit_now
from lab.guard.files import temporary_folder
from lab.study.provenance import ROOT

ATTEMPTS = 3  # at a task whose process is killed
LONGEST_LINE = 500  # characters of an error

logger = logging.getLogger(__name__)
_children = set()


class RunLost(Exception):
    """A task's process was killed; another attempt may succeed."""


def run_tasks(module, tasks, jobs=None, cluster=None):
    """Run tasks; yield each one's key and result, bytes, as soon as it is finished.

    Args: name of the module that runs one task; dict of tasks by key; processes at once on this machine, by default one
        for each core; address of a Dask scheduler, instead of this machine
    Raises: LabError, as `run_in_subprocess`, or a task's process was killed several times, or the cluster is lost.
    """
    with _dask_executor(cluster) if cluster else _local_executor(jobs) as submit:
        pending = {submit(module, task): key for key, task in tasks.items()}
        losses = Counter()
        while pending:
            finished, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)  # Windows sees Ctrl-C only in between
            for future in sorted(finished, key=_has_failed):  # what is done is kept
                key = pending.pop(future)
                try:
                    yield key, future.result()
                except CancelledError as error:
                    raise LabError("the cluster is lost; finished runs are kept, start again for the rest") from error
                except RunLost as error:
                    losses[key] += 1
                    if losses[key] == ATTEMPTS:
                        raise LabError(f"{key}: its process was killed {ATTEMPTS} times, last by {error}") from error
                    logger.warning("killed, tried again: %s (%s)", key, error)
                    pending[submit(module, tasks[key])] = key


def _has_failed(future):
    return future.cancelled() or future.exception() is not None


@contextlib.contextmanager
def _local_executor(jobs):
    """Yield a function that submits a task to a pool of threads, each of which waits for a process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    executor, closing = ThreadPoolExecutor(jobs or cores), threading.Event()
    try:
        yield lambda module, task: executor.submit(run_in_subprocess, module, task, closing)
    finally:  # for a signal, the processes end by themselves
        closing.set()  # a thread may be starting a process just now
        executor.shutdown(wait=False, cancel_futures=True)
        for process in list(_children):
            process.kill()


@contextlib.contextmanager
def _dask_executor(address):
    """Yield a function that submits to a cluster (https://distributed.dask.org/en/stable/api.html: get_executor)."""
    try:
        from distributed import Client
    except ImportError as error:
        raise LabError("--cluster needs Dask; pip install -r requirements/cluster.txt") from error
    for name in ("distributed", "distributed.client"):  # they log tracebacks of what they raise anyway
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError, TimeoutError) as error:
        raise LabError(f"--cluster {address}: no Dask scheduler answers there ({error})") from error

    def run_on_worker(module, task):
        # a function within a function is pickled as a whole, so that the scheduler does not need this project
        from lab.study.executors import run_in_subprocess

        return run_in_subprocess(module, task)

    executor = client.get_executor(pure=False)
    try:
        if not client.scheduler_info()["workers"]:
            logger.warning("%s has no workers yet; waiting for one", address)
        yield lambda module, task: executor.submit(run_on_worker, module, task)
    finally:
        executor.shutdown(wait=False)
        with contextlib.suppress(TimeoutError):  # of a cluster that is lost: said already
            client.close(timeout=2)


def run_in_subprocess(module, task, closing=None):
    """Run one task in a process that ends when this one does, or at once if the Event is set; return its result.

    Raises: LabError, the last line that the process says, with all of it as a note; RunLost, it was killed.
    """
    with temporary_folder("lab-run-") as folder:
        command = [sys.executable, "-P", "-m", module, str(folder / "result")]  # -P: nothing from the current folder
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        settings = {"env": {**os.environ, "PYTHONPATH": path}, "text": True, "errors": "replace"}
        with subprocess.Popen(command, **pipes, **settings) as process:
            _children.add(process)
            try:
                if closing and closing.is_set():
                    process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(task) + "\n")
                    process.stdin.flush()  # left open: the process ends when it is closed
                messages = process.stderr.read().strip()
                process.wait()
            finally:
                process.kill()
                _children.discard(process)
        if process.returncode < 0 or (process.returncode and not messages):  # the latter as a kill ends it on Windows
            raise RunLost(f"exit code {process.returncode}")
        if process.returncode:
            error = LabError(messages.rpartition("\n")[2])
            error.add_note(messages)  # with the traceback
            raise error
        return (folder / "result").read_bytes()


def serve_task(run):
    """In the process that `run_in_subprocess` has started, run the task and write its result, which must be bytes."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(2)), daemon=True).start()
    try:
        Path(sys.argv[1]).write_bytes(run(task))
    except Exception as error:
        traceback.print_exc()
        line = f"{error}" if isinstance(error, LabError) else f"{type(error).__name__} (--debug shows where): {error}"
        print(" ".join(line.split())[:LONGEST_LINE], file=sys.stderr)
        exit_now(1)
    exit_now(0)
