"""Experiments as a user runs them, at --smoke size; experiment 5 is in tests/faults/test_study_faults.py."""

import importlib
import re

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT, read_record, run_script
from photograph_files import draw_garment, save

import convolution_gain
import robustness
import sample_efficiency
import training_length
import what_filters_see
import why_it_helps
from lab.changes.robustness import CORRUPTIONS
from lab.study.records import Run


def test_the_conv_script_trains_as_a_study_does(runs_here, smoke_saves, tmp_path):
    """For dense, tests/test_scripts.py says it."""
    arguments = ["--smoke", "--seeds", "1", "--variants", "conv-original"]
    convolution_gain.main([*arguments, "--output-dir", str(tmp_path)])
    (path,) = (tmp_path / "smoke" / "convolution_gain").iterdir()
    script, study = read_record(smoke_saves[0], "deep_learning_conv"), Run.from_file(path).record
    for part in ("weights_sha256", "test_accuracy", "test_loss", "train_accuracy", "train_loss"):
        assert script[part] == study[part]


def test_training_length(runs_here, tmp_path, capsys):
    training_length.main(["--smoke", "--seeds", "1", "--variants", "dense", "--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "smoke" / "training_length.png").is_file()
    assert len(re.findall(r"\| chosen[ ,]", printed)) == 1  # the longest may be, which it says
    assert "| dense                         |" in printed


def test_why_it_helps(runs_here, tmp_path, capsys):
    variants = ("--variants", "local-moved-4", "conv-moved-4")
    why_it_helps.main(["--smoke", "--seeds", "1", "--output-dir", str(tmp_path), *variants])
    assert not (tmp_path / "smoke" / "why_it_helps.png").exists()  # no panel has all its models
    assert "| conv - local, moved by up to 4 pixels |" in capsys.readouterr().out


def test_sample_efficiency(runs_here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample_efficiency, "SIZES", (300, 1_000, 3_000))
    sample_efficiency.main(["--smoke", "--seeds", "1", "--variants", "dense", "--output-dir", str(tmp_path)])
    assert (tmp_path / "smoke" / "sample_efficiency.png").is_file()
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert (rows[0], *rows[2:]) == ("images,", "300", "1,000")  # there are 2,000
    runs = [Run.from_file(path) for path in (tmp_path / "smoke" / "sample_efficiency").iterdir()]
    assert sorted(run.record["train_images"] for run in runs) == [240, 800]
    for run in runs:  # stopped: not before 600 steps are without gain
        steps = -(-run.record["train_images"] // 32) * len(run.record["history"]["val_loss"])
        assert 600 <= steps < 9_375


def test_robustness(runs_here, tmp_path, monkeypatch, capsys):
    for name, corruption in CORRUPTIONS.items():  # two strengths of each
        strengths = sorted({corruption.identity, robustness.HEADLINE_STRENGTHS[name]})
        monkeypatch.setitem(CORRUPTIONS, name, corruption._replace(strengths=tuple(strengths)))
    robustness.main(["--smoke", "--seeds", "1", "--variants", "dense", "conv", "--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "smoke" / "robustness.png").is_file()
    consistency = re.findall(r"^\| (\w+), .*: [\d.]+ +(?:\| +100\.00 ){2}\|$", printed, re.M)
    assert consistency == list(CORRUPTIONS)  # of the images that are not changed
    _, _, row, change = (line for line in printed.splitlines() if line.startswith("| shift, pixels: 2 "))
    assert re.search(r"^In points, conv is .*clean images.*shift, pixels: 2.* \(one seed", printed, re.M)
    clean = next(line for line in printed.splitlines() if line.startswith("| shift, pixels: 0 ") and "+" in line)
    first = [float(line.split("|")[2].split()[0]) for line in (row, clean, change)]
    assert first[0] - first[1] == pytest.approx(first[2], abs=0.011)


def test_what_filters_see(runs_here, tmp_path, capsys):
    photograph = save(tmp_path, draw_garment("white", "black"), "shoe.png")
    what_filters_see.main(["--smoke", "--seeds", "1", "--output-dir", str(tmp_path), "--image", str(photograph)])
    titles = [ax.get_title() for number in plt.get_fignums() for ax in plt.figure(number).axes]
    assert titles.count("shoe.png") == 1
    printed = capsys.readouterr().out
    figures = ["what_filters_see.png", "what_filters_see_importance.png"]
    assert sorted(path.name for path in (tmp_path / "smoke").glob("*.png")) == figures
    assert len(re.findall(r"^\| +\d+ +\|", printed, re.M)) == 32
    assert "filters can be removed with a loss below 0.1 points on the images that rank them" in printed
    assert printed.endswith(" (one seed, n = 250).\n")


def test_a_copy_of_the_example_under_another_name_has_its_own_results(runs_here, tmp_path, monkeypatch, capsys):
    source = (ROOT / "examples" / "kernel_size.py").read_text()
    (tmp_path / "my_kernels.py").write_text(source.replace("layers.Conv2D(32, ", "layers.Conv2D(8, "))
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--smoke", "--seeds", "1", "--variants", "kernel-5", "--output-dir", str(tmp_path / "out")]
    importlib.import_module("my_kernels").main(arguments)
    assert re.fullmatch(r"\| 5 x 5  \| +\d\d\.\d\d \|", capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "out" / "smoke" / "kernel_size.png").is_file()
    (run,) = (tmp_path / "out" / "smoke" / "my_kernels").iterdir()
    assert Run.from_file(run).record["parameters"] == 8 * 26 + 24 * 24 * 8 * 128 + 128 + 1_290


def test_a_published_run_of_dense_is_reproduced():
    process = run_script("-m", "lab.study.reproduce", "--variants", "dense")
    assert process.stdout.startswith("dense, seed ")
    assert process.stdout.endswith((": the same bits\n", " published runs\n"))
