"""Studies at --smoke size: real processes, real kills, a real Dask cluster on this machine."""

import contextlib
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import flip_bits, run_script, start, wait_until

from lab import LabError, study
from lab.recipe import SMOKE, Recipe

STUDY = ("convolution_gain.py", "--smoke", "--seeds", 2, "--variants", "dense", "conv", "--jobs", 2)
PLAN = [study.Key(variant, seed, SMOKE) for seed in (0, 1) for variant in ("dense", "conv")]


def files(folder):
    """Return the finished runs' files, in order, with the moment when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted((folder / "smoke" / "convolution_gain").glob("*.npz"))}


def read(path):
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return an output folder with a finished study of 2 x 2 runs, and its process."""
    folder = tmp_path_factory.mktemp("study")
    process = run_script(*STUDY, "--output-dir", folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def test_a_study_prints_tables_and_sentence_and_draws_two_pictures(undisturbed):
    folder, process = undisturbed
    assert len(files(folder)) == 4
    assert re.search(r"^\| dense +\| +101,770 \| +\d\d\.\d\d ± \d\.\d\d \[", process.stdout, re.M)
    assert re.search(r"^\| total +\| conv - dense +\| +[+-]\d+\.\d\d \[", process.stdout, re.M)
    first, second, *_, sentence = process.stdout.splitlines()
    assert [first, second] == [
        f"picture: {folder / 'smoke' / name}" for name in ("convolution_gain.png", "convolution_gain_by_class.png")
    ]
    assert re.fullmatch(
        r"One 3 x 3 convolution buys -?\d+\.\d\d points \[.*\] on the test set; .* \(2 seeds\)\.", sentence
    )
    assert re.search(r"^study: 4 of 4 runs, .* test accuracy so far: .*dense \d\d\.\d\d \(2\)", process.stderr, re.M)


def test_a_run_is_kept_whole(undisturbed, splits):
    path = next(iter(files(undisturbed[0])))
    run = study.Run.from_file(path)
    labels = splits[1].labels[: SMOKE.test_images]
    arrays, record = run.arrays, run.record
    assert (arrays["predicted"] == labels).mean() == pytest.approx(record["test"]["accuracy"], abs=1e-6)
    right = np.unpackbits(arrays["train_right"], count=SMOKE.train_images)
    assert right.mean() == pytest.approx(record["train"]["accuracy"], abs=1e-6)
    assert -arrays["log_probability"].mean(dtype=float) == pytest.approx(record["test"]["loss"], abs=1e-3)
    assert ((arrays["confidence"] > 0.1) & (arrays["confidence"] <= 1)).all()


def test_a_finished_study_is_not_done_again(undisturbed):
    folder, process = undisturbed
    before = files(folder)
    again = run_script(*STUDY, "--output-dir", folder)
    assert again.stdout == process.stdout
    assert files(folder) == before


@pytest.mark.fault("study", "killed in mid-run: the same table, finished runs not repeated")
def test_killed_in_mid_run_it_goes_on_to_the_same_table(undisturbed, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = start(*STUDY, "--output-dir", tmp_path, TMPDIR=temporary)
    wait_until(lambda: files(tmp_path))
    process.kill()
    process.communicate()
    kept = files(tmp_path)
    assert 0 < len(kept) < 4
    time.sleep(1)
    commands = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [command for command in commands if bytes(temporary) in command], "its runs outlive it"
    again = run_script(*STUDY, "--output-dir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"study: {len(kept)} of 4 runs are there" in again.stderr
    assert again.stdout.replace(str(tmp_path), "") == undisturbed[1].stdout.replace(str(undisturbed[0]), "")
    assert kept.items() <= files(tmp_path).items()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.fault("study", "interrupted: said, its runs stopped")
def test_interrupted_it_says_so_and_stops_its_runs(tmp_path):
    process = start(*STUDY, "--output-dir", tmp_path)
    wait_until(lambda: process.stderr.readline().startswith("data: "))
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaints.splitlines()[-1] == "interrupted"


@pytest.mark.fault("study", "damaged record: named and done anew")
def test_a_damaged_run_is_named_and_done_anew(undisturbed, tmp_path):
    arguments = ("convolution_gain.py", "--smoke", "--seeds", 1, "--variants", "dense", "--output-dir", tmp_path)
    run_script(*arguments)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    process = run_script(*arguments)
    assert f"done anew: {path}: damaged" in process.stderr
    assert study.Run.from_file(path).record["weights_sha256"]
    assert process.returncode == 0


@pytest.mark.fault("study", "runs of another recipe, library or code: not mixed in")
def test_runs_of_another_recipe_are_left_out_and_said_so(undisturbed, tmp_path):
    for path in files(undisturbed[0]):
        copy = tmp_path / "smoke" / "convolution_gain" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    process = run_script(
        *STUDY[:2], "--seeds", 1, "--variants", "dense", "--learning-rate", 0.01, "--output-dir", tmp_path
    )
    assert re.search(r"left out: 4 other runs in ", process.stderr)
    assert study.published(PLAN, copy.parent).keys() == set(PLAN)


def test_published_runs_are_of_seeds_that_all_variants_have(undisturbed, tmp_path):
    alone, *others = files(undisturbed[0])
    for path in others:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    seed = study.Run.from_file(alone).key.seed
    assert study.published(PLAN, tmp_path).keys() == {key for key in PLAN if key.seed != seed}
    with pytest.raises(LabError, match="no such runs"):
        study.published([study.Key("wide", 0, SMOKE)], tmp_path)


@pytest.mark.fault("study", "runs of another recipe, library or code: not mixed in")
def test_published_runs_of_one_kind_are_not_counted_twice(undisturbed, tmp_path):
    for path in files(undisturbed[0]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    run = study.Run.from_file(path)
    (tmp_path / "other.npz").write_bytes(run.to_bytes())
    with pytest.raises(LabError, match="a second run of"):
        study.published(PLAN, tmp_path)
    older = {**run.record["study"], "versions": {"keras": "3.0.0"}}
    (tmp_path / "other.npz").unlink()
    path = tmp_path / path.name
    path.write_bytes(study.Run({**run.record, "study": older}, run.arrays).to_bytes())
    with pytest.raises(LabError, match="more than one versions"):
        study.published(PLAN, tmp_path)


def task(**changed):
    import convolution_gain

    made = study._task("convolution_gain", PLAN[0], convolution_gain.VARIANTS["dense"], None)
    return {**made, **changed}


def test_what_decides_a_run_decides_its_file():
    import convolution_gain

    variants = convolution_gain.VARIANTS
    paths = [
        study._path("x", study._task("convolution_gain", study.Key(name, seed, recipe), variant, None))
        for name, variant in (
            ("dense", variants["dense"]),
            ("dense", variants["wide"]),
            ("dense", variants["dense-shuffled"]),
            ("conv", variants["conv"]),
        )
        for seed in (0, 1)
        for recipe in (SMOKE, Recipe(), Recipe(precision="bfloat16"))
    ]
    assert len(set(paths)) == 24


@pytest.mark.fault("study", "runs of another recipe, library or code: not mixed in")
def test_another_version_of_the_code_or_of_a_library_is_refused():
    with pytest.raises(LabError, match="another version of this project's code"):
        study.perform(task(source_sha256="0" * 64))
    older = {**task()["study"], "versions": {**study.versions(), "keras": "3.0.0"}}
    with pytest.raises(LabError, match=r"has keras .* instead of 3\.0\.0"):
        study.perform(task(study=older))


def test_a_run_that_fails_unforeseen_shows_its_traceback():
    with pytest.raises(RuntimeError, match="KeyError"):
        study.perform({"seed": 0})


@pytest.mark.fault("study", "run whose process is killed: tried again")
def test_a_lost_run_is_tried_again(tmp_path, monkeypatch, caplog):
    lost = []

    def perform(task):
        lost.append(task["seed"])
        if len(lost) == 1:
            raise study.RunLost("signal 9")
        return real(task)

    real = study.perform
    monkeypatch.setattr(study, "perform", perform)
    runs = study.run_study("convolution_gain", [study.Key("dense", 3, SMOKE)], tmp_path, jobs=1)
    assert len(runs) == 1
    assert lost == [3, 3]
    assert "lost, tried again: dense, seed 3 (signal 9)" in caplog.text


@pytest.mark.fault("study", "no scheduler")
def test_no_scheduler_is_said_in_one_line(tmp_path):
    process = run_script(*STUDY[:-2], "--cluster", "tcp://127.0.0.1:9", "--output-dir", tmp_path)
    assert process.returncode == 1
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error")]
    assert "--cluster tcp://127.0.0.1:9: no Dask scheduler answers" in line
    assert "Traceback" not in process.stderr


@contextlib.contextmanager
def cluster(folder, workers):
    """Start a Dask scheduler and workers on this machine; yield its address and their processes, scheduler first."""
    address_file = folder / "scheduler.json"
    scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard")
    processes = [start(*scheduler, "--scheduler-file", address_file)]
    try:
        wait_until(address_file.exists)
        time.sleep(0.5)
        address = re.search(r"tcp://127\.0\.0\.1:\d+", address_file.read_text()).group()
        worker = ("-m", "distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny", "--no-dashboard")
        processes += [start(*worker, "--local-directory", folder / f"worker{n}") for n in range(workers)]
        yield address, processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.fault("study", "cluster that loses a worker: the same table")
def test_a_cluster_that_loses_a_worker_gives_the_same_table(undisturbed, tmp_path):
    with cluster(tmp_path, workers=2) as (address, processes):
        client = start(*STUDY[:-2], "--cluster", address, "--output-dir", tmp_path / "out")
        processes.append(client)
        wait_until(lambda: files(tmp_path / "out"))
        processes[1].kill()
        printed, complaints = client.communicate(timeout=300)
    assert client.returncode == 0, complaints
    assert printed.replace(str(tmp_path / "out"), "") == undisturbed[1].stdout.replace(str(undisturbed[0]), "")


@pytest.mark.fault("study", "cluster that loses its scheduler: said, the finished runs kept")
def test_a_cluster_that_loses_its_scheduler_is_said(tmp_path):
    with cluster(tmp_path, workers=1) as (address, processes):
        client = start(*STUDY[:-2], "--cluster", address, "--output-dir", tmp_path / "out")
        processes.append(client)
        wait_until(lambda: files(tmp_path / "out"))
        processes[0].kill()
        _, complaints = client.communicate(timeout=300)
    assert client.returncode == 1
    assert complaints.splitlines()[-1] == (
        "error: the cluster is lost; the finished runs are kept, start again for the rest"
    )
    assert "Traceback" not in complaints
    assert files(tmp_path / "out")


def test_shuffled_pixels_are_the_same_pixels_in_one_order():
    import convolution_gain

    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    shuffled = convolution_gain.shuffle_pixels(images, 3)
    assert shuffled.shape == images.shape
    np.testing.assert_array_equal(np.sort(shuffled.reshape(5, -1)), np.sort(images.reshape(5, -1)))
    position = np.arange(784, dtype=np.int64).reshape(1, 28, 28)
    order = convolution_gain.shuffle_pixels(position, 3).ravel()
    np.testing.assert_array_equal(shuffled.reshape(5, -1), images.reshape(5, -1)[:, order])
    assert not np.array_equal(order, convolution_gain.shuffle_pixels(position, 4).ravel())


@pytest.mark.fault("study", "record with a bit flipped: read the same, or named as damaged")
def test_every_flipped_bit_of_a_run_is_damage_or_does_not_matter(tmp_path, soak, count_cases):
    record = {"seed": 0, "study": {"variant": "dense", "recipe": {}}}
    path = tmp_path / "run.npz"
    path.write_bytes(study.Run(record, {"right": np.arange(50, dtype=np.uint8)}).to_bytes())
    for _ in flip_bits(path, 1 if soak else 3, count_cases):
        try:
            run = study.Run.from_file(path)
        except LabError:
            continue
        assert run.record == record
        np.testing.assert_array_equal(run.arrays["right"], np.arange(50))
