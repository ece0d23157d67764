"""Shared by the tests: the scripts as a user starts them, the real data, and the table of faults.

A test that injects a fault is marked `fault(group, what)`; tests of one fault are one row of the table, which
`pytest tests -m fault --soak --faults results/faults.md` writes. With --soak, they try many more cases.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["MPLBACKEND"] = "Agg"
pytest_plugins = ["mirror", "model_files"]  # their fixtures

# by the names of their modules, found by looking, so that a new one is covered as soon as it exists
SCRIPTS = [path.stem for path in sorted(ROOT.glob("*.py"))]
SCRIPTS += [f"examples.{path.stem}" for path in sorted((ROOT / "examples").glob("*.py"))]


def run_script(name, *arguments, cwd=ROOT, code=0, wrapper=(), **environment):
    """Run a script as a user would, with no display, no terminal and no input; return the finished process.

    Args: the `code` that it ends with, None for any; a `wrapper`, which takes its command as the last arguments
    """
    unset = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    command = [*wrapper, sys.executable, ROOT / name if name.endswith(".py") else name, *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    process = subprocess.run([*map(str, command)], cwd=cwd, env={**inherited, **environment}, timeout=600, **pipes)
    assert code in (None, process.returncode), process.stderr
    return process


def read_record(folder, name="deep_learning"):
    """Return the record of the model that a training script has saved in an output folder with --smoke."""
    return json.loads((folder / "smoke" / f"{name}.json").read_text())


def start(command, *arguments, **environment):
    """Start Python with arguments, as a user's shell would in the foreground; return the running process."""
    return subprocess.Popen(
        [sys.executable, *map(str, (command, *arguments))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )


def wait_until(condition, seconds=120):
    """Wait until the condition, a function, returns something true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def copy_project(folder):
    """Copy the scripts, the package and the example to a folder; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    for name in ("lab", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def flip_bits(path, every, count_cases):
    """Write the file with one bit flipped, every so many of them, and yield after each; count the cases at the end."""
    whole = path.read_bytes()
    bits = range(0, 8 * len(whole), every)
    for bit in bits:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        yield
    count_cases(len(bits))


def run_measured(statements):
    """Run Python statements in a process of their own, warnings being errors; return what they print, and MiB at peak.

    The peak is VmHWM: ru_maxrss would also count what this process held when it forked.
    """
    peak = "next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statements}\nprint({peak})"
    process = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    *printed, kibibytes = process.stdout.splitlines()
    return "\n".join(printed), int(kibibytes) / 1024


def do_runs_here(module, tasks, *given):
    """Do what `lab.study.executors.run_tasks` does, in this process: a process of its own takes seconds to start."""
    from lab.study import runs

    for key, task in tasks.items():
        yield key, runs._do_run(task)


@pytest.fixture(scope="session")
def splits():
    """Return the real training and test splits; without them the tests fail, they do not skip."""
    from lab.training.data import load_data

    return load_data()


@pytest.fixture(scope="session")
def smoke_saves(tmp_path_factory):
    """Return an output folder where both training scripts have run with --smoke, and what they printed."""
    folder = tmp_path_factory.mktemp("saves")
    return folder, {
        name: run_script(name, "--smoke", "--output-dir", folder, cwd=folder)
        for name in ("deep_learning.py", "deep_learning_conv.py")
    }


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory):
    """Return an output folder with a finished study of 2 x 2 runs, and its process."""
    from studies import DENSE_AND_CONV

    folder = tmp_path_factory.mktemp("study")
    return folder, run_script(*DENSE_AND_CONV, "--output-dir", folder)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def runs_here(monkeypatch):
    """Let studies do their runs in this process."""
    from lab.study import runs

    monkeypatch.setattr(runs, "run_tasks", do_runs_here)


def pytest_addoption(parser):
    parser.addoption("--soak", action="store_true", help="the long form of the fault tests: an hour")
    parser.addoption("--faults", type=Path, metavar="PATH", help="write the table of the fault tests there")


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(group, what): injects a fault; a row of the table of faults")
    if config.getoption("--faults"):
        config.pluginmanager.register(_FaultTable(config.getoption("--faults")))


def pytest_itemcollected(item):
    item.user_properties += [("fault", marker.args) for marker in item.iter_markers("fault")]


@pytest.fixture
def soak(request):
    """Return whether this is the long form of the tests."""
    return request.config.getoption("--soak")


@pytest.fixture
def count_cases(request):
    """Return a function that a fault's test tells how many cases it has tried, if it is not one."""
    return lambda cases: request.node.user_properties.append(("cases", cases))


class _FaultTable:
    """Counts the cases of each fault and those whose test failed; writes them at the end as a Markdown table."""

    def __init__(self, path):
        self.path, self.rows, self.started = path, defaultdict(lambda: [0, 0, 0]), time.monotonic()

    def pytest_runtest_logreport(self, report):
        known = dict(report.user_properties)
        if "fault" in known and (report.when == "call" or not report.passed):
            row = self.rows[tuple(known["fault"])]
            row[("passed", "failed", "skipped").index(report.outcome)] += known.get("cases", 1)

    def pytest_sessionfinish(self, session):
        from lab.study.provenance import environment, library_versions

        failed = sum(row[1] > 0 for row in self.rows.values())
        minutes, here = (time.monotonic() - self.started) / 60, environment()
        lines = [
            f"`pytest {' '.join(session.config.invocation_params.args)}`: {len(self.rows)} kinds of fault in "
            f"{minutes:.0f} minutes, {failed} failed; {datetime.now(UTC):%Y-%m-%d}, {here['processor']}, "
            f"{os.cpu_count()} cores, Python {here['python']}, TensorFlow {library_versions()['tensorflow']}",
            "",
            "| | fault | cases | failed | not possible here |",
            "|---|---|---:|---:|---:|",
        ]
        lines += [
            f"| {group} | {what} | {passed + failed:,} | {failed:,} | {skipped:,} |"
            for (group, what), (passed, failed, skipped) in sorted(self.rows.items())
        ]
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
