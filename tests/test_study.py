"""Studies at --smoke size: real processes, one run of each kind; tests/faults/test_study_faults.py has the faults."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT, run_script
from studies import DENSE_AND_CONV, PLAN, run_paths

import convolution_gain
from lab import study
from lab.plumbing import executors
from lab.guard.errors import LabError
from lab.study.records import Run
from lab.training.recipe import SMOKE
from lab.study.runs import RunKey


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return an output folder with a finished study of 2 x 2 runs, and its process."""
    folder = tmp_path_factory.mktemp("study")
    process = run_script(*DENSE_AND_CONV, "--output-dir", folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def copy_runs(finished, folder):
    folder.mkdir(parents=True, exist_ok=True)
    return [path for path in run_paths(finished[0]) if (folder / path.name).write_bytes(path.read_bytes())]


def test_a_study_prints_tables_and_conclusion(finished):
    folder, process = finished
    assert len(run_paths(folder)) == 4
    assert re.search(r"^\| dense +\| +101,770 \| +\d\d\.\d\d ± \d\.\d\d \[", process.stdout, re.M)
    assert re.search(r"^\| controlled gain: conv - dense \| +[+-]\d+\.\d\d \[", process.stdout, re.M)
    conclusion = process.stdout.splitlines()[-1]
    expected = r"One 3 x 3 convolution in front of the same head buys \S+ \[.*\] points on the test set.* \(2 seeds\)\."
    assert re.fullmatch(expected, conclusion)
    last = r"^study: 4 of 4 runs, about 0\.0 min left; \w+, seed \d: accuracy 0\.\d{4}$"
    assert re.search(last, process.stderr, re.M)
    assert len(re.findall(r"^data: ", process.stderr, re.M)) == 1


def test_a_run_is_saved_whole(finished, splits):
    run = Run.from_file(next(path for path in run_paths(finished[0]) if path.name.startswith("conv")))
    labels = splits[1].labels[: SMOKE.test_images]
    arrays, record = run.arrays, run.record
    assert (arrays["predicted"] == labels).mean() == pytest.approx(record["test"]["accuracy"], abs=1e-6)
    assert -arrays["log_probability"].mean(dtype=float) == pytest.approx(record["test"]["loss"], abs=1e-3)
    assert ((arrays["confidence"] > 0.1) & (arrays["confidence"] <= 1)).all()
    assert record["made_of"].keys() == {
        *("recipe", "seed", "training code", "model code", "measurement code", "model", "images", "versions")
    }


def test_a_script_trains_what_a_study_trains(tmp_path, smoke_saves):
    arguments = ("--smoke", "--seeds", 1, "--variants", "dense", "conv-original", "--output-dir", tmp_path)
    assert run_script("convolution_gain.py", *arguments).returncode == 0
    for name, saved_as in (("dense", "fashion"), ("conv-original", "fashion_conv")):
        runs = [Run.from_file(path).record for path in run_paths(tmp_path)]
        (ours,) = (run for run in runs if run["variant"] == name and run["made_of"]["seed"] == 0)
        theirs = json.loads((smoke_saves[0] / "smoke" / f"{saved_as}.json").read_text())
        for part in ("weights_sha256", "test", "train"):
            assert ours[part] == theirs[part]


def test_a_finished_study_is_not_done_again(finished):
    folder, process = finished
    before = {path: path.stat().st_mtime_ns for path in run_paths(folder)}
    again = run_script(*DENSE_AND_CONV, "--output-dir", folder)
    assert again.stdout == process.stdout
    assert {path: path.stat().st_mtime_ns for path in run_paths(folder)} == before


def test_runs_of_another_recipe_are_left_out(finished, tmp_path):
    copy_runs(finished, tmp_path / "smoke" / "convolution_gain")
    arguments = ("--seeds", 1, "--variants", "dense", "--learning-rate", 0.01, "--output-dir", tmp_path)
    process = run_script(*DENSE_AND_CONV[:2], *arguments)
    assert re.search(r"ignored: 4 other runs in ", process.stderr)
    assert "rerun" not in process.stderr  # nothing has changed but the recipe that was asked for
    assert study.published_runs("convolution_gain", PLAN, tmp_path / "smoke" / "convolution_gain").keys() == set(PLAN)


def test_published_runs_are_of_seeds_that_all_variants_have(finished, tmp_path):
    first, *_ = copy_runs(finished, tmp_path)
    (tmp_path / first.name).unlink()
    seed = RunKey.from_record(Run.from_file(first).record).seed
    runs = study.published_runs("convolution_gain", PLAN, tmp_path)
    assert runs.keys() == {key for key in PLAN if key.seed != seed}
    with pytest.raises(LabError, match="none of these runs"):
        study.published_runs("convolution_gain", [RunKey("local", 0, SMOKE)], tmp_path)


@pytest.mark.fault("study", "published runs that are not comparable: refused")
def test_published_runs_that_are_not_comparable_are_refused(finished, tmp_path):
    path = copy_runs(finished, tmp_path)[-1]
    run = Run.from_file(path)
    run.save(tmp_path / "other.npz")
    with pytest.raises(LabError, match="a second run of"):
        study.published_runs("convolution_gain", PLAN, tmp_path)
    (tmp_path / "other.npz").unlink()
    for part, value in (("versions", {"keras": "3.0.0"}), ("training code", "0" * 64)):
        other = {**run.record, "made_of": {**run.record["made_of"], part: value}}
        Run(other, run.arrays).save(tmp_path / path.name)
        with pytest.raises(LabError, match=f"different {part}"):
            study.published_runs("convolution_gain", PLAN, tmp_path)


@pytest.mark.fault("study", "worker with other code or libraries: refused")
@pytest.mark.parametrize("part", ["training code", "model", "images", "measurement code", "versions"])
def test_a_worker_with_other_code_or_libraries_is_refused(part, finished):
    run = Run.from_file(run_paths(finished[0])[0])
    task = {"script": "convolution_gain", "variant": run.record["variant"], "data_dir": None}
    with pytest.raises(LabError, match=f"has different {part}; bring its project up to date"):
        study._do_run({**task, "made_of": {**run.record["made_of"], part: "other"}})


@pytest.mark.fault("study", "run that fails unexpectedly: its traceback")
def test_a_run_that_fails_unexpectedly_shows_its_traceback():
    with pytest.raises(RuntimeError, match="KeyError"):
        executors.run_in_subprocess("lab.study.runs", {"seed": 0})


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


def test_the_example_runs_and_tells_kernel_sizes_apart(tmp_path):
    arguments = ("--smoke", "--seeds", "1", "--variants", "kernel-1", "kernel-3", "--output-dir", tmp_path)
    process = run_script("-m", "examples.kernel_size", *arguments)
    assert process.returncode == 0, process.stderr
    *_, one, three = process.stdout.splitlines()
    assert re.fullmatch(r"\| 1 x 1  \| +\d\d\.\d\d \|", one)
    assert re.fullmatch(r"\| 3 x 3  \| +\d\d\.\d\d \|", three)
    assert (tmp_path / "smoke" / "kernel_size.png").is_file()
    models = {Run.from_file(path).record["made_of"]["model code"] for path in run_paths(tmp_path, "kernel_size")}
    assert len(models) == 2


def test_the_example_is_what_the_readme_links_to():
    assert "(examples/kernel_size.py)" in (ROOT / "README.md").read_text()


def test_what_decides_a_run_decides_its_file(splits):
    plan = [RunKey(name, seed, SMOKE) for name in convolution_gain.VARIANTS for seed in (0, 1)]
    made_of = [study._describe_run(convolution_gain.VARIANTS[key.variant], key, splits) for key in plan]
    assert len({json.dumps(each) for each in made_of}) == len(plan)
    assert len({each["training code"] for each in made_of}) == 1


def test_shuffled_pixels_are_the_same_pixels_in_one_order():
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    shuffled = convolution_gain.shuffle_pixels(images, 3)
    assert shuffled.shape == images.shape
    np.testing.assert_array_equal(np.sort(shuffled.reshape(5, -1)), np.sort(images.reshape(5, -1)))
    position = np.arange(784, dtype=np.int64).reshape(1, 28, 28)
    order = convolution_gain.shuffle_pixels(position, 3).ravel()
    np.testing.assert_array_equal(shuffled.reshape(5, -1), images.reshape(5, -1)[:, order])
    assert not np.array_equal(order, convolution_gain.shuffle_pixels(position, 4).ravel())
