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
from concurrent.futures import FIRST_COMPLETED, CancelledError, ThreadPoolExecutor, wait
from pathlib import Path

from lab.guard.errors import LabError, cleanup_on_signal, exit_now
from lab.guard.files import temporary_folder

ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = 3  # at a task whose process or worker is lost
LONGEST_LINE = 500  # characters of an error
EXPECTED_ERROR_EXIT = 3  # exit code of a process that ends with a LabError; a traceback's is 1

logger = logging.getLogger(__name__)


class RunLost(Exception):
    """A task's process was killed; another attempt may succeed."""


def run_tasks(module, tasks, jobs=None, cluster=None):
    """Run tasks; yield each one's key and result, bytes, as soon as it is finished.

    Args: name of the module that runs one task; dict of tasks by key; processes at once on this machine, by default one
        for each core; address of a Dask scheduler, instead of this machine
    Raises: LabError, as `run_in_subprocess`, or a task was lost several times, or the cluster; RuntimeError, likewise.
    """
    with _dask_executor(cluster) if cluster else _local_executor(jobs) as submit:
        pending = {submit(module, task): key for key, task in tasks.items()}
        losses = dict.fromkeys(tasks, 0)
        while pending:
            finished, _ = wait(pending, timeout=1, return_when=FIRST_COMPLETED)  # Windows sees Ctrl-C only in between
            for future in finished:
                key = pending.pop(future)
                try:
                    content = future.result()
                except CancelledError as error:
                    raise LabError("the cluster is lost; finished runs are kept, start again for the rest") from error
                except RunLost as error:
                    losses[key] += 1
                    if losses[key] == ATTEMPTS:
                        raise LabError(f"{key}: its process was killed {ATTEMPTS} times, last by {error}") from error
                    logger.warning("killed, tried again: %s (%s)", key, error)
                    pending[submit(module, tasks[key])] = key
                else:
                    yield key, content


_children = set()


@contextlib.contextmanager
def _local_executor(jobs):
    """Yield a function that submits a task to a pool of threads, each of which waits for a process."""

    def kill_children():
        [process.kill() for process in list(_children)]

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    executor = ThreadPoolExecutor(jobs or cores)
    try:
        with cleanup_on_signal(kill_children):
            yield lambda module, task: executor.submit(run_in_subprocess, module, task)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        kill_children()


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
        client.close(timeout=2)


def run_in_subprocess(module, task):
    """Run one task in a process that ends when this one does; return its result.

    Raises: LabError, the process has ended with one; RunLost, it was killed; RuntimeError, with its traceback as a
        note.
    """
    with temporary_folder("lab-run-") as folder:
        command = [sys.executable, "-m", module, str(folder / "result")]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment, text=True, errors="replace", **pipes) as process:
            _children.add(process)
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(task) + "\n")
                    process.stdin.flush()  # left open: the process ends when it is closed
                messages = process.stderr.read()
                process.wait()
            finally:
                process.kill()
                _children.discard(process)
        if process.returncode < 0:
            raise RunLost(f"signal {-process.returncode}")
        if process.returncode and not messages.strip():  # as a kill ends it on Windows
            raise RunLost(f"exit code {process.returncode}")
        if process.returncode:
            kind = LabError if process.returncode == EXPECTED_ERROR_EXIT else RuntimeError
            error = kind(messages.strip().rpartition("\n")[2].removeprefix("error: "))
            error.add_note(messages)  # with the traceback
            raise error
        return (folder / "result").read_bytes()


def serve_task(run):
    """In the process that `run_in_subprocess` has started, run the task and write its result, which must be bytes."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(2)), daemon=True).start()
    try:
        Path(sys.argv[1]).write_bytes(run(task))
    except Exception as error:
        expected = isinstance(error, LabError)
        if not expected:
            traceback.print_exc()
        line = " ".join((f"{error}" if expected else f"{type(error).__name__}: {error}").split())
        print(f"error: {line[:LONGEST_LINE]}", file=sys.stderr, flush=True)
        os._exit(EXPECTED_ERROR_EXIT if expected else 1)
    exit_now(0)
