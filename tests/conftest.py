"""Shared by the tests: the scripts as a user starts them, small random models, and the real data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

os.environ["MPLBACKEND"] = "Agg"


def run_script(name, *arguments, cwd=ROOT, **environment):
    """Run a script as a user would, with no screen, no terminal and no input; return the finished process."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
    return subprocess.run(
        [sys.executable, ROOT / name, *map(str, arguments)],
        cwd=cwd,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def run_measured(statements):
    """Run Python statements in a process of their own, warnings being errors; return what they print, and MiB at peak.

    The peak is VmHWM: ru_maxrss would also count what this process held when it forked.
    """
    peak = "next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{statements}\nprint({peak})"
    process = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    *printed, kibibytes = process.stdout.splitlines()
    return "\n".join(printed), int(kibibytes) / 1024


@pytest.fixture(scope="session")
def splits():
    """Return the real training and test splits; without them the tests fail, they do not skip."""
    from lab.data import load_splits

    return load_splits()


@pytest.fixture(scope="session")
def smoke_saves(tmp_path_factory):
    """Return an output folder where both training scripts have run with --smoke, and what they printed."""
    folder = tmp_path_factory.mktemp("saves")
    return folder, {
        name: run_script(name, "--smoke", "--output-dir", folder, cwd=folder)
        for name in ("deep_learning.py", "deep_learning_conv.py")
    }
