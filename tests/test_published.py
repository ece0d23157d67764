"""Published runs: never edited, with the arrays they are about, and reproducible."""

import subprocess

import numpy as np
import pytest
from conftest import ROOT

from lab.guard.errors import LabError
from lab.study import provenance, published, reproduce
from lab.study.provenance import arrays_digest
from lab.study.records import Run

EXPERIMENTS = sorted(path.parent.name for path in (ROOT / "results").glob("*/runs.csv"))


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def find_edited_rows(folder):
    """Return the published rows of a repository that changed or disappeared since they were first there, as texts.

    A whole experiment may be removed, and a column may be added at the end if it is empty in the rows that were there.
    """
    edited, shown = [], ("-U0", "--dst-prefix=", "--no-renames", "--diff-filter=M", "--", "results/*/runs.csv")
    history = git(folder, "log", "-p", "-m", "--first-parent", "--reverse", "--format=", *shown)
    for patch in (history + git(folder, "diff", "HEAD", *shown)).split("diff --git ")[1:]:
        name, *lines = patch.partition("\n+++ ")[2].split("\n")
        removed, added = ([line[1:] for line in lines if line.startswith(sign)] for sign in "-+")
        kept = {row.rstrip(",") for row in added}
        for row in removed:
            if row.startswith("run,"):
                edited += [] if any(each.startswith(f"{row},") for each in added) else [f"{name}: columns"]
            elif row.rstrip(",") not in kept:
                edited.append(f"{name}: {row.partition(',')[0]}")
    return edited


def test_no_published_row_was_ever_edited():
    try:
        if git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true":
            pytest.skip("the history is not here: a shallow clone")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the history is not here: not a git repository")
    assert find_edited_rows(ROOT) == []


def test_an_edited_row_is_found(tmp_path):
    def commit(**tables):
        for name, text in tables.items():
            path = tmp_path / "results" / name / "runs.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text) if text else path.unlink()
        git(tmp_path, "add", "-A")
        git(tmp_path, "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "-m", "x")

    git(tmp_path, "init", "-q")
    commit(a="run,seed\nr0,0\n", b="run,seed\nr0,0\n")
    commit(a="run,seed\nr0,0\nr1,1\n", b="")  # a row is added, an experiment removed
    commit(a="run,seed,more\nr0,0,\nr1,1,\nr2,2,x\n", b="run,seed\nr5,5\n")
    assert find_edited_rows(tmp_path) == []
    commit(a="run,seed,more\nr0,7,\nr1,1,y\n", b="seed,run\nr5,5\n")
    a, b = "results/a/runs.csv", "results/b/runs.csv"
    assert find_edited_rows(tmp_path) == [f"{a}: r0", f"{a}: r1", f"{a}: r2", f"{b}: columns"]
    (tmp_path / "results/a/runs.csv").write_text("run,seed,more\nr0,7,\n")  # not committed
    assert find_edited_rows(tmp_path)[4:] == [f"{a}: r1"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_row_is_about_its_arrays_and_labels(experiment):
    folder = ROOT / "results" / experiment
    records = published.read_records(folder)
    runs = published.read_runs(folder, records)  # compares the digests
    assert len({record["run"] for record in records}) == len(records)
    for run in runs:
        if "predicted" in run.arrays:
            accuracy = (run.arrays["predicted"] == run.labels).mean()
            assert accuracy == pytest.approx(run.record["test_accuracy"], abs=1e-6)
    with np.load(folder / "predictions.npz") as content:
        owners = {name.split("/")[0] for name in content.files}
    assert owners == {"labels", *(record["run"] for record in records)}


def make_run(name, **changes):
    arrays, labels = {"predicted": np.arange(5, dtype=np.uint8)}, np.zeros(5, np.uint8)
    record = {
        column: {str: "", int: 1, float: 0.5, published.truth: False}.get(kind)
        for column, kind in published.COLUMNS.items()
    }
    digests = {"arrays_sha256": arrays_digest(arrays.values()), "labels_sha256": arrays_digest([labels])}
    return Run({**record, "run": name, "history": {"loss": [0.1]}, **digests, **changes}, arrays, labels)


def test_publishing_adds_rows_and_leaves_the_others_as_they_are(tmp_path):
    assert published.publish(tmp_path, [make_run("first"), make_run("old", dirty=None, first_committed_in="1234")]) == 2
    path = tmp_path / "runs.csv"
    path.write_bytes(path.read_bytes().replace(b",0.5,", b",0.50,"))  # as another program might write it
    before = path.read_bytes()
    assert published.publish(tmp_path, [make_run("first", seed=7), *2 * [make_run("second")]]) == 1
    assert path.read_bytes().startswith(before)
    records = published.read_records(tmp_path)
    assert [record["run"] for record in records] == ["first", "old", "second"]
    assert records[2] == make_run("second").record
    assert len(published.read_runs(tmp_path, records)) == 3
    for dirty in (True, None):
        with pytest.raises(LabError, match="third: made from code that was not committed; run it again from a commit"):
            published.publish(tmp_path, [make_run("third", dirty=dirty)])
    assert published.publish(tmp_path, []) == 0


def test_runs_on_other_data_sets_are_published_and_those_on_a_part_are_not(tmp_path, monkeypatch, capsys):
    for name, folder in {"a": "", "b": "mnist", "c": "smoke", "d": "first-100", "e": "mnist/smoke"}.items():
        path = tmp_path / "saves" / folder / "study" / f"{name}.npz"
        path.parent.mkdir(parents=True)
        make_run(name).save(path)
    monkeypatch.setattr(published, "SAVES", tmp_path / "saves")
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results")
    published.main(["study"])
    records = published.read_records(tmp_path / "results" / "study")
    assert [record["run"] for record in records] == ["a", "b"]
    assert capsys.readouterr().out == "study: 2 runs added, 0 were there\n"


@pytest.mark.fault("results", "published arrays that are not those of their row: refused")
def test_arrays_of_another_run_are_refused(tmp_path):
    published.publish(tmp_path, [make_run("first")])
    (record,) = published.read_records(tmp_path)
    for change in ({"arrays_sha256": "0"}, {"labels_sha256": "0"}, {"run": "second"}):
        with pytest.raises(LabError, match="predictions.npz: corrupt"):
            published.read_runs(tmp_path, [{**record, **change}])


def test_a_run_outside_the_spread_is_not_reproduced(monkeypatch, capsys):
    accuracies = [0.87, 0.872, 0.869, 0.871, 0.868]
    rows = [{"weights_sha256": f"{seed}", "test_accuracy": value} for seed, value in enumerate(accuracies)]
    assert reproduce.compare(rows[0], rows) == ("the same bits", True)
    # 0.87 +- t(0.9995, 4) x 0.00158 x sqrt(1.2) = 0.87 +- 0.0149
    for accuracy, within in ((0.884, True), (0.886, False), (0.856, True), (0.854, False)):
        verdict, found = reproduce.compare({"weights_sha256": "x", "test_accuracy": accuracy}, rows)
        assert found == within
        assert verdict.startswith(f"test accuracy differs by {100 * (accuracy - 0.87):+.2f} points, ")
        assert ("outside" in verdict) != within

    def train_badly(script, plan, *given, **settings):
        return {key: make_run("x", weights_sha256="x", test_accuracy=0.5) for key in plan}

    monkeypatch.setattr(reproduce, "run_study", train_badly)
    with pytest.raises(LabError, match="not reproduced: dense, conv;"):
        reproduce.main(["--variants", "dense", "conv"])
    assert "outside the spread of its 10 published runs" in capsys.readouterr().out


def test_a_record_names_the_commit_and_whether_the_checkout_differed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.checkout_state() == {"commit": "", "dirty": None}
    git(tmp_path, "init", "-q")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert provenance.checkout_state() == {"commit": commit, "dirty": False}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "new.py").touch()
    assert provenance.checkout_state() == {"commit": commit, "dirty": True}
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "folder")  # within another project's checkout
    assert provenance.checkout_state() == {"commit": "", "dirty": None}
