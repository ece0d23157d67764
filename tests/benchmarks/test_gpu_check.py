"""The check of a GPU, here on the CPU: it runs, its text is complete, and it tells a wrong GPU from a right one."""

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import gpu_check


def test_it_runs_on_a_cpu_and_ends_with_a_text_to_send():
    command = [sys.executable, ROOT / "benchmarks" / "gpu_check.py", "--smoke"]
    process = subprocess.run(command, capture_output=True, text=True)  # however long a busy machine takes
    assert process.returncode == 0, process.stderr
    text = process.stdout.split("----- copy from here -----")[1].split("----- to here -----")[0]
    assert "GPU: TensorFlow sees none" in text
    for model in ("dense", "conv"):
        assert re.search(rf"^\| {model} +\| +0.0e\+00 \| +agree \| +XLA loop \|$", text, re.M)
        assert re.search(rf"^\| {model} +\| +[\d.]+ \| +[\d.]+ \| +[\d.]+ \|$", text, re.M)


def test_a_failure_is_in_the_text(monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(gpu_check, "in_new_process", fail)
    with pytest.raises(SystemExit) as exit:
        gpu_check.main(["--smoke"])
    assert exit.value.code
    assert "FAILED: RuntimeError: CUDA_ERROR_OUT_OF_MEMORY\n----- to here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("difference", "path", "verdict"),
    [
        (1e-3, "XLA loop", "agree"),  # rounding
        (2e-2, "XLA loop", "DIFFER"),  # TF32
        (np.nan, "XLA loop", "DIFFER"),
        (0, "Keras fit: InternalError: no driver", "cannot be compared"),
    ],
)
def test_which_weights_agree(difference, path, verdict):
    layers = [np.ones(100), np.ones(10)]
    found = [layers[0], layers[1] * (1 + difference)], path
    assert gpu_check.compare(found, (layers, "XLA loop"))[1] == verdict
