"""Studies at --smoke size: real processes, one run of each kind; tests/faults/test_study_faults.py has the faults."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, run_script
from studies import DENSE_AND_CONV, PLAN, SMOKE, SMOKE_DATA, run_paths

import convolution_gain
from lab.changes.convolution_gain import shuffle_pixels
from lab.guard.errors import LabError
from lab.study import executors, provenance, published, runs
from lab.study.records import Run
from lab.study.runs import RunKey

SCRIPT = ROOT / "convolution_gain.py"
TINY_DATA = replace(SMOKE_DATA, train_images=64, test_images=50)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return an output folder with a finished study of 2 x 2 runs, and its process."""
    folder = tmp_path_factory.mktemp("study")
    process = run_script(*DENSE_AND_CONV, "--output-dir", folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def test_a_study_prints_tables_and_conclusion(finished):
    folder, process = finished
    assert len(run_paths(folder)) == 4
    assert re.search(r"^\| dense +\| +101,770 \| +\d\d\.\d\d ± \d\.\d\d \[", process.stdout, re.M)
    assert re.search(r"^\| controlled gain: conv - dense \| +[+-]\d+\.\d\d \[", process.stdout, re.M)
    expected = r"One 3 x 3 convolution in front of the same head buys \S+ \[.*\] points on the test set.* \(2 seeds\)\."
    assert re.fullmatch(expected, process.stdout.splitlines()[-1])
    last = r"^study: 4 of 4 runs, about 0\.0 min left; \w+, seed \d: accuracy 0\.\d{4}$"
    assert re.search(last, process.stderr, re.M)
    assert len(re.findall(r"^data: ", process.stderr, re.M)) == 1


def test_a_run_is_saved_whole(finished, splits):
    run = Run.from_file(next(path for path in run_paths(finished[0]) if path.name.startswith("conv")))
    labels, arrays, record = splits[1].labels[:500], run.arrays, run.record
    assert record.keys() == published.COLUMNS.keys()
    np.testing.assert_array_equal(run.labels, labels)
    assert (arrays["predicted"] == labels).mean() == pytest.approx(record["test_accuracy"], abs=1e-6)
    assert -arrays["log_probability"].mean(dtype=float) == pytest.approx(record["test_loss"], abs=1e-3)
    assert ((arrays["confidence"] > 0.1) & (arrays["confidence"] <= 1)).all()


def test_a_script_trains_what_a_study_trains(finished, smoke_saves):
    (ours,) = (Run.from_file(path).record for path in run_paths(finished[0]) if path.name.startswith("dense-0"))
    theirs = json.loads((smoke_saves[0] / "smoke" / "deep_learning.json").read_text())
    for part in ("weights_sha256", "test_accuracy", "test_loss", "train_accuracy", "train_loss", "training_code"):
        assert ours[part] == theirs[part]


@pytest.fixture
def no_runs(monkeypatch):
    """Let a study that would do a run fail."""
    monkeypatch.setattr(runs, "run_tasks", lambda *given: pytest.fail("does a run"))


def test_a_finished_study_is_not_done_again(finished, no_runs):
    folder = finished[0] / "smoke" / "convolution_gain"
    found = runs.run_study(SCRIPT, PLAN, folder, SMOKE_DATA)
    assert list(found) == PLAN
    assert {run.record["run"] for run in found.values()} == {path.stem for path in run_paths(finished[0])}


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """Return a folder with the finished runs as published ones, of a commit."""
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    found = [Run.from_file(path) for path in run_paths(finished[0])]
    found = [replace(run, record={**run.record, "commit": "1" * 40, "dirty": False}) for run in found]
    assert published.publish(tmp_path / "convolution_gain", found) == 4
    return tmp_path / "convolution_gain"


def test_published_runs_are_not_done_again(results, no_runs, tmp_path):
    assert list(runs.run_study(SCRIPT, PLAN, tmp_path / "empty", SMOKE_DATA)) == PLAN


def edit_rows(folder, edit):
    """Write the rows of runs.csv, a list of lists, as a function returns them."""
    header, *rows = [line.split(",") for line in (folder / "runs.csv").read_text().splitlines()]
    (folder / "runs.csv").write_text("".join(f"{','.join(row)}\n" for row in [header, *edit(header, rows)]))


def test_published_runs_are_of_seeds_that_all_variants_have(results, caplog):
    caplog.set_level("INFO")
    assert list(runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)) == PLAN
    assert "published: 4 runs, made by 1111111" in caplog.text
    edit_rows(results, lambda header, rows: [row for row in rows if row[:3] != [row[0], "conv", "1"]])
    assert {key.seed for key in runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)} == {0}
    assert "incomplete: 2 of 4 runs" in caplog.text
    with pytest.raises(LabError, match="none of these runs"):
        runs.published_runs(SCRIPT, [RunKey("local", 0, SMOKE)], SMOKE_DATA)


@pytest.mark.fault("study", "published runs that are not comparable: left out")
@pytest.mark.parametrize("part", ["training_code", "keras"])
def test_published_runs_of_other_code_or_libraries_are_left_out(results, part):
    def edit(header, rows):
        for row in rows:
            row[header.index(part)] = "other" if row[1:3] == ["conv", "1"] else row[header.index(part)]
        return rows

    edit_rows(results, edit)
    assert {key.seed for key in runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)} == {0}


@pytest.mark.fault("study", "published predictions for other images: refused")
def test_published_predictions_for_other_images_are_refused(results):
    def edit(header, rows):
        return [[*row[: header.index("data_sha256")], "other", *row[header.index("data_sha256") + 1 :]] for row in rows]

    edit_rows(results, edit)
    with pytest.raises(LabError, match="its predictions are for other images than those of this fashion-mnist"):
        runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)
    with pytest.raises(LabError, match="none of these runs on mnist"):
        runs.published_runs(SCRIPT, PLAN, replace(SMOKE_DATA, name="mnist"))


@pytest.mark.fault("study", "worker with other code or libraries: refused")
@pytest.mark.parametrize("part", ["training_code", "images_sha256", "keras"])
def test_a_worker_with_other_code_images_or_libraries_is_refused(part, finished):
    record = Run.from_file(run_paths(finished[0])[0]).record
    names = list(published.COLUMNS)
    parts = {*names[names.index("images_sha256") : names.index("python")]} - {"data_sha256"}
    decided_by = {name: record[name] for name in {*parts, "seed", *names[4:10]}}
    task = {"run": "x", "variant": record["variant"], "where": ["convolution_gain.py", vars(SMOKE_DATA)]}
    with pytest.raises(LabError, match=f"^{part} on .* differ from when this study started; finished runs are kept"):
        runs._do_run({**task, "decided_by": {**decided_by, part: "other"}})


@pytest.mark.fault("study", "training code edited in the middle of a study: one line, finished runs kept")
def test_training_code_that_is_edited_in_the_middle_of_a_study(tmp_path, monkeypatch):
    training = shutil.copytree(provenance.TRAINING, tmp_path / "training")
    recipe = training / "recipe.py"
    before = recipe.read_text()
    monkeypatch.setattr(provenance, "TRAINING", training)

    def run_here(module, tasks, *given):
        for number, (key, task) in enumerate(tasks.items()):
            if number == 1:
                recipe.write_text(before + "\nMORE = 1\n")
            yield key, runs._do_run(json.loads(json.dumps(task)))

    monkeypatch.setattr(runs, "run_tasks", run_here)
    plan = [RunKey("dense", seed, SMOKE) for seed in (0, 1)]
    arguments = SCRIPT, plan, tmp_path / "runs", TINY_DATA
    with pytest.raises(LabError, match="^training_code on .* differ from when this study started"):
        runs.run_study(*arguments)
    (kept,) = (tmp_path / "runs").glob("*.npz")
    again = runs.run_study(*arguments)  # all with the new code
    assert kept.stem not in {run.record["run"] for run in again.values()}
    assert len({run.record["training_code"] for run in again.values()}) == 1
    recipe.write_text(before)  # undone: the first one is found again
    monkeypatch.setattr(runs, "run_tasks", lambda *given: pytest.fail("does a run"))
    assert runs.run_study(SCRIPT, plan[:1], *arguments[2:])[plan[0]].record["run"] == kept.stem


def test_a_run_that_fails_unexpectedly_shows_its_traceback():
    with pytest.raises(RuntimeError, match="KeyError") as error:
        executors.run_in_subprocess("lab.study.runs", {"seed": 0})
    assert "Traceback" in error.value.__notes__[0]


@pytest.mark.fault("study", "run whose process is killed: tried again")
def test_a_run_that_is_killed_is_tried_again(monkeypatch, caplog):
    attempts = []

    def run(module, task):
        attempts.append(task["seed"])
        if len(attempts) < 3:
            raise executors.RunLost("signal 9")
        return b"result"

    monkeypatch.setattr(executors, "run_in_subprocess", run)
    assert list(executors.run_tasks("lab.study.runs", {"a run": {"seed": 3}}, jobs=1)) == [("a run", b"result")]
    assert attempts == [3, 3, 3]
    assert caplog.text.count("killed, tried again: a run (signal 9)") == 2
    monkeypatch.setattr(executors, "ATTEMPTS", 1)
    attempts.clear()
    with pytest.raises(LabError, match="a run: its process was killed 1 times"):
        list(executors.run_tasks("lab.study.runs", {"a run": {"seed": 3}}, jobs=1))


def test_packages_on_the_users_python_path_stay_there(tmp_path, monkeypatch):
    (tmp_path / "a_task.py").write_text(
        "import os\nfrom lab.study.executors import serve_task\n"
        "serve_task(lambda task: (task + os.environ['PYTHONPATH']).encode())"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    assert executors.run_in_subprocess("a_task", "path: ").decode() == f"path: {ROOT}:{tmp_path}"


def test_the_example_runs_as_a_script(tmp_path):
    arguments = ("--smoke", "--seeds", 1, "--variants", "kernel-1", "--output-dir", tmp_path)
    process = run_script("examples/kernel_size.py", *arguments, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert re.fullmatch(r"\| 1 x 1  \| +\d\d\.\d\d \|", process.stdout.splitlines()[-1])
    assert len(run_paths(tmp_path, "kernel_size")) == 1
    assert (tmp_path / "smoke" / "kernel_size.png").is_file()


def test_what_decides_a_run_decides_its_file(splits):
    few = [split.first(100) for split in splits]
    keys = [RunKey(name, seed, SMOKE) for name in convolution_gain.VARIANTS for seed in (0, 1)]
    described = [runs.describe_run(SCRIPT, convolution_gain.VARIANTS[key.variant], key, few) for key in keys]
    assert len({json.dumps(each) for each in described}) == len(keys)
    assert len({each["training_code"] for each in described}) == 1


def test_shuffled_pixels_are_the_same_pixels_in_one_order():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    shuffled = shuffle_pixels(images, 3)
    np.testing.assert_array_equal(np.sort(shuffled.reshape(5, -1)), np.sort(images.reshape(5, -1)))
    order = shuffle_pixels(np.arange(784).reshape(1, 28, 28), 3).ravel()
    np.testing.assert_array_equal(shuffled.reshape(5, -1), images.reshape(5, -1)[:, order])
    assert not np.array_equal(order, shuffle_pixels(np.arange(784).reshape(1, 28, 28), 4).ravel())
