"""Studies at --smoke size in processes of their own: faults, killed processes, a real Dask cluster on this machine."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, flip_bits, run_script, start, wait_until
from studies import DENSE_AND_CONV, run_paths

from lab.guard.errors import LabError
from lab.study.executors import run_tasks
from lab.study.records import Run


def written(folder):
    """Return the finished runs' files, with the moment when each was written."""
    return {path: path.stat().st_mtime_ns for path in run_paths(folder)}


def test_a_study_prints_tables_and_conclusion(finished_study):
    folder, process = finished_study
    assert len(run_paths(folder)) == 4
    assert re.search(r"^\| dense +\| +0\.001 \| +101,770 \| +\d\d\.\d\d ± \d\.\d\d \[", process.stdout, re.M)
    assert re.search(r"^\| controlled gain: conv - dense \| +[+-]\d+\.\d\d \[", process.stdout, re.M)
    expected = r"One 3 x 3 convolution in front of the same head buys \S+ \[.*\] points on the test set.* \(2 seeds\)\."
    assert re.fullmatch(expected, process.stdout.splitlines()[-1])
    last = r"^study: 4 of 4 runs, about 0\.0 min left; \w+, seed \d: accuracy 0\.\d{4}$"
    assert re.search(last, process.stderr, re.M)
    assert len(re.findall(r"^data: ", process.stderr, re.M)) == 1


KILLED = pytest.mark.fault("study", "killed in mid-run: the same table, finished runs not repeated")
INTERRUPTED = pytest.mark.fault("study", "interrupted: one line, its runs stopped")


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGKILL, -9, marks=KILLED), pytest.param(signal.SIGINT, 130, marks=INTERRUPTED)],
)
def test_ended_in_mid_run_it_goes_on_to_the_same_table(number, code, finished_study, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(*DENSE_AND_CONV, "--output-dir", tmp_path, TMPDIR=temporary)
    wait_until(lambda: written(tmp_path))
    process.send_signal(number)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == code
    assert number == signal.SIGKILL or complaints.splitlines()[-1] == "interrupted"
    kept = written(tmp_path)
    assert 0 < len(kept) < 4

    def commands():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # the process has ended
                yield path.read_bytes()

    wait_until(lambda: not any(bytes(temporary) in command for command in commands()), seconds=3)  # none outlives it
    again = run_script(*DENSE_AND_CONV, "--output-dir", tmp_path)
    assert f"study: {len(kept)} of 4 runs found" in again.stderr
    assert again.stdout.replace(str(tmp_path), "") == finished_study[1].stdout.replace(str(finished_study[0]), "")
    assert kept.items() <= written(tmp_path).items()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.fault("study", "two studies on one folder")
def test_two_studies_on_one_folder_end_with_the_same_table(tmp_path):
    arguments = ("convolution_gain.py", "--smoke", "--seeds", 1, "--variants", "dense", "--output-dir", tmp_path)
    both = [start(*arguments) for _ in range(2)]
    tables = []
    for process in both:
        printed, complaints = process.communicate(timeout=300)
        assert process.returncode == 0, complaints
        tables.append(printed)
    assert tables[0] == tables[1]
    assert [*(tmp_path / "smoke" / "convolution_gain").iterdir()] == run_paths(tmp_path)


def documented_commands(port):
    """Return the commands of the documentation's cluster section: scheduler, worker and client, to be run as typed."""
    section = (ROOT / "docs" / "cluster.md").read_text()
    commands = [line for block in re.findall(r"```\n(.*?)```", section, re.S) for line in block.splitlines()]
    here = {"HOST": "127.0.0.1", "8786": str(port), ".venv/bin/": f"{shlex.quote(str(Path(sys.executable).parent))}/"}
    for name, value in here.items():
        commands = [command.replace(name, value).partition("  #")[0] for command in commands]
    _, scheduler, worker, client = commands  # the first one installs Dask
    return scheduler, worker, client


@contextlib.contextmanager
def cluster(folder, workers):
    """Start the documented scheduler and workers on this machine; yield the client's command and their processes.

    The scheduler and the client run as typed in the project's folder, with no more on their path than a user has.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    scheduler, worker, client = documented_commands(port)
    run = {"cwd": ROOT, "shell": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    without_path = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    processes = [subprocess.Popen(f"exec {scheduler}", env=without_path, **run)]
    try:
        wait_until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        for n in range(workers):
            command = worker.replace("--nworkers 8", "--nworkers 1")
            command = command.replace(
                "PYTHONPATH=.", f"PYTHONPATH=. exec env DASK_TEMPORARY_DIRECTORY={folder / str(n)}"
            )
            processes.append(subprocess.Popen(command, env=without_path, start_new_session=True, **run))
        yield client, processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if process is not processes[0] else process.kill()
            process.communicate()


def start_client(command, folder):
    command = command.replace("convolution_gain.py", shlex.join(map(str, DENSE_AND_CONV[:-2])))
    command = f"exec {command} --output-dir {folder}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, shell=True, cwd=ROOT, env={**os.environ, "MPLBACKEND": "Agg"}, **pipes)


@pytest.mark.fault("study", "cluster that loses a worker: the same table")
def test_the_documented_cluster_that_loses_a_worker_gives_the_same_table(finished_study, tmp_path):
    with cluster(tmp_path, workers=2) as (command, processes):
        client = start_client(command, tmp_path / "out")
        wait_until(lambda: run_paths(tmp_path / "out") or client.poll() is not None)
        os.killpg(processes[1].pid, signal.SIGKILL)
        printed, complaints = client.communicate(timeout=300)
    assert client.returncode == 0, complaints
    assert printed.replace(str(tmp_path / "out"), "") == finished_study[1].stdout.replace(str(finished_study[0]), "")


@pytest.mark.fault("study", "cluster that loses its scheduler: one line, the finished runs kept")
def test_a_cluster_that_loses_its_scheduler_is_one_line(tmp_path):
    with cluster(tmp_path, workers=1) as (command, processes):
        client = start_client(command, tmp_path / "out")
        wait_until(lambda: run_paths(tmp_path / "out") or client.poll() is not None)
        processes[0].kill()
        _, complaints = client.communicate(timeout=300)
    assert client.returncode == 1
    assert complaints.splitlines()[-1] == "error: the cluster is lost; finished runs are kept, start again for the rest"
    assert "Traceback" not in complaints
    assert run_paths(tmp_path / "out")


@pytest.mark.fault("study", "record with a bit flipped: read the same, or named as corrupt")
def test_every_flipped_bit_of_a_run_is_noticed_or_does_not_matter(tmp_path, soak, count_cases):
    record = {"variant": "dense", "seed": 0, "epochs": 5}
    path = tmp_path / "run.npz"
    Run(record, {"correct": np.arange(50, dtype=np.uint8)}, np.zeros(50, np.uint8)).save(path)
    for _ in flip_bits(path, 1 if soak else 3, count_cases):
        try:
            run = Run.from_file(path)
        except LabError:
            continue
        assert run.record == record
        assert not run.labels.any()
        np.testing.assert_array_equal(run.arrays["correct"], np.arange(50))


@pytest.mark.fault("study", "no scheduler")
def test_without_a_scheduler_the_error_is_one_line():
    with pytest.raises(LabError, match="--cluster tcp://127.0.0.1:9: no Dask scheduler answers"):
        list(run_tasks("lab.study.runs", {"a run": {}}, cluster="tcp://127.0.0.1:9"))
