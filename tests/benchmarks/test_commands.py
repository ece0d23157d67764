"""Every command in README and docs is run as it stands, in a fresh copy, which git still finds clean after it.

But for `make` and `deep_learning_pred.py`, which train conv for minutes: they are run with --smoke.
"""

import os
import re
import subprocess

import pytest
from conftest import ROOT
from photograph_files import draw_garment, save

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {  # beginning of a command: why no test runs it here
    "make test": "it is what runs this",
    "python3 -m venv": "make does it on a new machine",
    ".venv/bin/pip install": "make does it on a new machine",
    ".venv/bin/dask": "needs several machines; tests/faults/test_study_faults.py starts a cluster here",
    "PYTHONPATH=. .venv/bin/dask": "as above",
    ".venv/bin/python convolution_gain.py --cluster": "as above",
    ".venv/bin/python convolution_gain.py --variants": "it takes minutes; tests/faults has it with --smoke",
    ".venv/bin/python examples/kernel_size.py --variants": "it takes minutes; README has it with --smoke",
    ".venv/bin/python convolution_gain.py --smoke --dataset cifar10-grey": "a data set that the reader makes",
}


def commands():
    """Return the commands in fenced blocks without a language, without their comments."""
    blocks = [block for page in PAGES for block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S)]
    lines = [line.partition("#")[0].strip() for kind, block in blocks if not kind for line in block.splitlines()]
    return list(dict.fromkeys(line for line in lines if re.match(r"make|python|\.venv|PYTHONPATH", line)))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Return a copy of what git has of the project, with this environment as its .venv and two photographs."""
    folder = tmp_path_factory.mktemp("copy with a space")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for lock in folder.glob("requirements/*.lock"):
        os.utime(lock, (0, 0))  # older than the environment, so that make keeps it
    exclude = folder / ".git" / "info" / "exclude"
    exclude.write_text(".venv\n*.jpg\nshirt.png\n")
    for name in ("shoe.jpg", "shirt.png"):
        save(folder, draw_garment("white", "navy"), name)
    return folder


@pytest.mark.parametrize("command", [each for each in commands() if not each.startswith(tuple(ELSEWHERE))])
def test_a_command_of_the_documentation(command, copy):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "PYTHONPATH")}
    environment["FLAGS"] = "--smoke"  # of make
    if "deep_learning_pred.py" in command:
        command += " --smoke"
    process = subprocess.run(
        command, shell=True, cwd=copy, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2_000:]
    status = subprocess.run(["git", "status", "--porcelain"], cwd=copy, capture_output=True, text=True, check=True)
    assert status.stdout == ""
    if command.endswith("deep_learning.py"):  # what the README shows is what is printed
        (expected,) = re.findall(r"test accuracy 0.*$", PAGES[0].read_text(), re.M)
        assert re.sub(r"\d", "0", process.stdout.splitlines()[-1]) == re.sub(r"\d", "0", expected)


def test_what_is_not_run_here_is_in_the_documentation():
    for beginning in ELSEWHERE:
        assert any(each.startswith(beginning) for each in commands()), beginning
