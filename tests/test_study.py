"""Studies at --smoke size, in this process; tests/faults/test_study_faults.py has their processes, and the faults."""

import json
import os
import shutil
import threading
from concurrent import futures
from dataclasses import asdict, replace

import numpy as np
import pytest
from conftest import ROOT, do_runs_here, wait_until
from studies import PLAN, SMOKE, SMOKE_DATA

from lab.changes.convolution_gain import shuffle_pixels
from lab.guard.errors import LabError
from lab.study import executors, provenance, published, runs
from lab.study.records import Checkpoint, Run
from lab.study.runs import RunKey
from lab.training import xla

SCRIPT = ROOT / "convolution_gain.py"
TINY_DATA = replace(SMOKE_DATA, train_images=64, test_images=50)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the paths of four finished runs, done in this process."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "run_tasks", do_runs_here)
        runs.run_study(SCRIPT, PLAN, folder, SMOKE_DATA)
    return sorted(folder.iterdir())


def test_a_run_is_saved_whole(finished, splits):
    run = Run.from_file(next(path for path in finished if path.name.startswith("conv")))
    labels, arrays, record = splits[1].labels[:500], run.arrays, run.record
    assert record.keys() == published.COLUMNS.keys()
    np.testing.assert_array_equal(run.labels, labels)
    assert (arrays["predicted"] == labels).mean() == pytest.approx(record["test_accuracy"], abs=1e-6)
    assert -arrays["log_probability"].mean(dtype=float) == pytest.approx(record["test_loss"], abs=1e-3)
    assert ((arrays["confidence"] > 0.1) & (arrays["confidence"] <= 1)).all()


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """Return a folder with the finished runs as published ones, of a commit."""
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    found = [Run.from_file(path) for path in finished]
    found = [replace(run, record={**run.record, "commit": "1" * 40, "dirty": False}) for run in found]
    assert published.publish(tmp_path / "convolution_gain", found) == 4
    return tmp_path / "convolution_gain"


def test_finished_and_published_runs_are_not_done_again(finished, results, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "run_tasks", lambda *given: pytest.fail("does a run"))
    saves, empty = finished[0].parent, tmp_path / "empty"
    for folder, published_in in ((empty, tmp_path), (saves, empty)):
        monkeypatch.setattr(published, "RESULTS", published_in)
        found = runs.run_study(SCRIPT, PLAN, folder, SMOKE_DATA)
        assert list(found) == PLAN
        assert {run.record["run"] for run in found.values()} == {path.stem for path in finished}


def test_a_later_study_in_this_process_looks_at_its_own_images(splits, tmp_path, monkeypatch):
    asked, images = [], splits[1].first(50).images.copy()

    def note_tasks(module, tasks, *given):
        asked.extend(task["decided_by"]["images_sha256"] for task in tasks.values())
        raise LabError("enough")

    loaded = [split.first(50)._replace(images=images) for split in splits]
    monkeypatch.setattr(runs, "load_data", lambda data_set: loaded)  # another study may get the same id for its own
    monkeypatch.setattr(runs, "run_tasks", note_tasks)
    for _ in range(2):
        with pytest.raises(LabError, match="enough"):
            runs.run_study(SCRIPT, PLAN[:1], tmp_path, TINY_DATA)
        images += 1
    assert len(set(asked)) == 2


@pytest.mark.fault("study", "corrupt record: named and rerun")
def test_a_corrupt_run_is_named_and_rerun(finished, tmp_path, monkeypatch, caplog):
    whole = finished[-1].read_bytes()
    path = tmp_path / finished[-1].name
    path.write_bytes(whole[:-200])
    monkeypatch.setattr(runs, "run_tasks", lambda module, tasks, *given: [(key, whole) for key in tasks])
    runs.run_study(SCRIPT, PLAN[2:3], tmp_path, SMOKE_DATA)
    assert f"rerun: {path}: corrupt" in caplog.text
    assert path.read_bytes() == whole


def edit_row(folder, column, value):
    """Write a value into a column of one run's row in runs.csv, or remove the row if the value is None."""
    header, *rows = [line.split(",") for line in (folder / "runs.csv").read_text().splitlines()]
    for row in [row for row in rows if row[1:3] == ["conv", "1"]]:
        row[header.index(column)] = value
        if value is None:
            rows.remove(row)
    (folder / "runs.csv").write_text("".join(f"{','.join(row)}\n" for row in [header, *rows]))


@pytest.mark.fault("study", "published runs that are not comparable: left out")
@pytest.mark.parametrize(("column", "value"), [("run", None), ("training_code", "other"), ("keras", "other")])
def test_published_runs_are_of_the_same_code_and_of_variants_that_have_all_seeds(results, caplog, column, value):
    assert list(runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)) == PLAN
    assert "published: 4 runs, made by 1111111" in caplog.text
    edit_row(results, column, value)
    assert list(runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)) == [key for key in PLAN if key.variant == "dense"]
    assert "incomplete: 2 of 4 runs" in caplog.text
    with pytest.raises(LabError, match="no variant has runs of all these seeds"):
        runs.published_runs(SCRIPT, [key for key in PLAN if key.variant == "conv"], SMOKE_DATA)


@pytest.mark.fault("study", "published predictions for other images: refused")
def test_published_runs_of_other_images_or_variants_are_refused(results):
    with pytest.raises(LabError, match="none of these runs on mnist"):
        runs.published_runs(SCRIPT, PLAN, replace(SMOKE_DATA, name="mnist"))
    with pytest.raises(LabError, match="none of these runs"):
        runs.published_runs(SCRIPT, [RunKey("local", 0, SMOKE)], SMOKE_DATA)
    edit_row(results, "data_sha256", "other")
    with pytest.raises(LabError, match="its predictions are for other images than those of this fashion-mnist"):
        runs.published_runs(SCRIPT, PLAN, SMOKE_DATA)


@pytest.mark.fault("study", "worker with other code or libraries: refused")
@pytest.mark.parametrize("part", ["training_code", "images_sha256", "keras"])
def test_a_worker_with_other_code_images_or_libraries_is_refused(part, finished):
    record = Run.from_file(finished[0]).record
    names = list(published.COLUMNS)
    parts = {*names[names.index("images_sha256") : names.index("python")]} - {"data_sha256"}
    decided_by = {name: record[name] for name in {*parts, "seed", *names[4:10]}}
    task = {"run": "x", "variant": record["variant"], "script": "convolution_gain.py", "data_set": vars(SMOKE_DATA)}
    task["checkpoint"] = ""
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


@pytest.mark.fault("study", "interrupted run, by XLA or Keras' fit: goes on after its last epoch, to the same weights")
@pytest.mark.parametrize("path", ["XLA loop", "Keras fit: AttributeError: no attribute '_var_key'"])
def test_an_interrupted_run_goes_on_after_its_last_epoch(path, runs_here, tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise AttributeError("no attribute '_var_key'")

    if path != "XLA loop":
        monkeypatch.setattr(xla, "_find_stateless_methods", fail)
    key = RunKey("dense", 0, replace(SMOKE, epochs=3))
    expected = runs.run_study(SCRIPT, [key], tmp_path / "whole", SMOKE_DATA)[key].record
    save = Checkpoint.save

    def interrupt(checkpoint, history, state):
        save(checkpoint, history, state)
        if len(history["seconds"]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.run_study(SCRIPT, [key], tmp_path / "interrupted", SMOKE_DATA)
    resumed = runs.run_study(SCRIPT, [key], tmp_path / "interrupted", SMOKE_DATA)[key].record
    assert "resumed: after epoch 2" in caplog.text
    assert resumed["training_path"] == expected["training_path"] == path
    assert resumed["weights_sha256"] == expected["weights_sha256"]
    assert len(resumed["history"]["loss"]) == 3
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.fault("study", "run whose process is killed: tried again")
def test_a_run_that_is_killed_is_tried_again(monkeypatch, caplog):
    attempts = []

    def run(module, task, closing):
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


@pytest.mark.fault("study", "run that fails: those that are done are kept, and the others end")
def test_when_a_task_fails_what_is_done_is_kept_and_no_process_is_left(tmp_path, monkeypatch):
    (tmp_path / "a_task.py").write_text(
        "import time\nfrom lab.study.executors import serve_task\n"
        "serve_task(lambda task: time.sleep(task['seconds']) or task['result'].encode())"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    fails, threads = {"seconds": 0}, threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(executors, "wait", lambda pending, **settings: futures.wait(pending))  # until all are finished
        tasks = executors.run_tasks("a_task", {"fails": fails, "done": {**fails, "result": "x"}}, jobs=2)
        assert next(tasks) == ("done", b"x")
        with pytest.raises(LabError, match="KeyError"):
            next(tasks)
    with pytest.raises(LabError, match="KeyError"):  # while its thread begins with the next
        list(executors.run_tasks("a_task", {"fails": fails, "slow": {"seconds": 600, "result": ""}}, jobs=1))
    wait_until(lambda: threading.active_count() <= threads)
    assert not executors._children


def test_a_task_has_the_users_python_path_and_fails_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "a_task.py").write_text(
        "import os\nfrom lab.study.executors import serve_task\n"
        "serve_task(lambda task: (task['text'] + os.environ['PYTHONPATH']).encode())"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    assert executors.run_in_subprocess("a_task", {"text": "path: "}).decode() == f"path: {ROOT}{os.pathsep}{tmp_path}"
    with pytest.raises(LabError) as error:
        executors.run_in_subprocess("a_task", {})
    assert str(error.value) == "KeyError (--debug shows where): 'text'"
    assert "Traceback" in error.value.__notes__[0]


def test_shuffled_pixels_are_the_same_pixels_in_one_order():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    shuffled = shuffle_pixels(images, 3)
    np.testing.assert_array_equal(np.sort(shuffled.reshape(5, -1)), np.sort(images.reshape(5, -1)))
    order = shuffle_pixels(np.arange(784).reshape(1, 28, 28), 3).ravel()
    np.testing.assert_array_equal(shuffled.reshape(5, -1), images.reshape(5, -1)[:, order])
    assert not np.array_equal(order, shuffle_pixels(np.arange(784).reshape(1, 28, 28), 4).ravel())


def test_a_study_says_what_has_changed_since_earlier_runs(tmp_path):
    key = RunKey("dense", 3, SMOKE)
    for name, numpy in (("a", "2.2.6"), ("b", "2.1.3")):
        record = {"variant": "dense", "seed": 3, **asdict(SMOKE), "training_code": "old", "numpy": numpy}
        Run(record, {}, np.empty(0)).save(tmp_path / f"dense-3-{name}.npz")
    decided_by = {**asdict(SMOKE), "seed": 3, "training_code": "new", "numpy": "2.2.6"}
    changed = runs._changed_since_earlier_runs(tmp_path / "dense-3-c.npz", key, decided_by)
    assert changed == ["training_code"]
    assert runs._changed_since_earlier_runs(tmp_path / "dense-4-c.npz", key._replace(seed=4), decided_by) == []
