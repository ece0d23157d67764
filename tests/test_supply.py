"""What is installed is what the lock files name, hash by hash, and they name what requirements*.txt ask for."""

import re
from importlib.metadata import version

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def asked_for(path):
    """Return the requirements of a file and of those that it includes."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    included = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    return found + [each for name in included for each in asked_for(path.with_name(name))]


def locked(path):
    """Return the requirements of a lock file that this Python and platform need, and how many hashes each has."""
    blocks = re.split(r"\n(?=\S)", path.read_text().strip())
    found = [
        (Requirement(block.split(" \\\n")[0]), len(re.findall(r"--hash=sha256:[0-9a-f]{64}", block)))
        for block in blocks
    ]
    return {
        canonicalize_name(each.name): (str(each.specifier), hashes)
        for each, hashes in found
        if each.marker is None or each.marker.evaluate()
    }


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_the_lock_has_every_requirement_with_hashes(name):
    lock = locked(ROOT / f"{name}.lock")
    for requirement in asked_for(ROOT / f"{name}.txt"):
        assert lock[canonicalize_name(requirement.name)][0] == str(requirement.specifier)
    assert all(specifier.startswith("==") and hashes for specifier, hashes in lock.values())


def test_what_is_installed_is_what_is_locked():
    for name, (specifier, _) in locked(ROOT / "requirements-dev.lock").items():
        assert f"=={version(name)}" == specifier, name


def test_the_two_locks_agree():
    everything = locked(ROOT / "requirements-dev.lock")
    assert locked(ROOT / "requirements.lock").items() <= everything.items()
