"""The numbers in README, docs and docstrings are those of the committed records."""

import json
import re
from statistics import fmean

import pytest
from conftest import ROOT, run_script

import convolution_gain
import deep_learning
import deep_learning_conv
import robustness
import sample_efficiency
from lab.plumbing.results import Run
from lab.recipe import Recipe
from lab.statistics import mean_interval
from lab.study import RunKey

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = " ".join(README.split())  # wherever its lines are broken
RECORDS = json.loads((ROOT / "results" / "precision.json").read_text())


def published(script):
    return [Run.from_file(path) for path in (ROOT / "results" / script).iterdir()]


def accuracies(model, precision, split):
    """Return accuracies in percent, by seed in order."""
    runs = [run for run in RECORDS if run["model"] == model and run["recipe"]["precision"] == precision]
    assert [run["seed"] for run in runs] == list(range(5))
    return [100 * run[split]["accuracy"] for run in runs]


def difference(ours, theirs):
    """Return the mean of the paired differences with its interval, as the README writes it."""
    mean, low, high = mean_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def report_of_published_runs(script, folder):
    """Return an experiment's tables and conclusion, which must be those in results/."""
    process = run_script(f"{script}.py", "--from-results", "--save", folder / f"{script}.png")
    assert process.returncode == 0, process.stderr
    assert "incomplete" not in process.stderr
    text = re.sub("^figure: .*\n", "", process.stdout, flags=re.M)
    assert text == (ROOT / "results" / f"{script}.md").read_text()
    return text


def numbers(text):
    """Return the numbers with decimals in a text, without their signs; those of arXiv are no numbers."""
    return re.findall(r"(?<!arXiv )\b\d+\.\d\d\b", text)


@pytest.fixture(scope="module")
def gain(tmp_path_factory):
    return report_of_published_runs("convolution_gain", tmp_path_factory.mktemp("figures"))


def test_the_gain_is_that_of_the_published_runs(gain):
    accuracies, _, differences, by_class, calibration, conclusion = gain.strip().split("\n\n")
    for part in (accuracies, differences, conclusion):
        assert part in README
    shirts = re.search(r"\| Shirt +\| +\+(\S+) \[\+(\S+), \+(\S+)\]", by_class).groups()
    assert "{} [{}, {}] points".format(*shirts) in PROSE
    for error in re.findall(r"^\| (?:dense|conv) +\| +(\S+)", calibration, re.M):
        assert error in PROSE


def test_the_docstrings(gain):
    for name, script in (("dense", deep_learning), ("conv", deep_learning_conv)):
        mean = re.search(rf"^\| {name} +\| +\S+ \| (\S+) ±", gain, re.M).group(1)
        assert numbers(script.__doc__) == [mean]
    conclusion = numbers(gain.splitlines()[-1])
    assert numbers(convolution_gain.__doc__) == [*conclusion[:3], *conclusion[-3:]]


def test_the_efficiency_is_that_of_the_published_runs(tmp_path):
    table, conclusion = report_of_published_runs("sample_efficiency", tmp_path).strip().split("\n\n")
    assert f"> {conclusion}\n" in README
    assert table in README
    rows = {row[0].strip(): row[1:] for row in (line.split("|")[1:-1] for line in table.splitlines())}
    ahead, behind = (numbers(rows[n][4]) for n in ("30,000", "10,000"))
    assert numbers(sample_efficiency.__doc__) == [*ahead, behind[0], *behind[:0:-1]]
    runs = published("sample_efficiency")
    for name in ("conv", "dense"):
        trained = [run.record["train"]["accuracy"] for run in runs if run.record["variant"] == f"{name}-10000"]
        assert f"{100 * fmean(trained):.2f}%" in PROSE


def test_the_robustness_is_that_of_the_published_runs(tmp_path):
    table, conclusion = report_of_published_runs("robustness", tmp_path).strip().split("\n\n")
    assert f"> {conclusion}\n" in README
    quoted = {what: numbers(text) for text, what in re.findall(r"([\d.]+ \[[^]]*\]) \((clean|shift|blur)", conclusion)}
    assert numbers(robustness.__doc__) == [*quoted["shift"], *quoted["clean"], *quoted["blur"]]
    rows = {row[0].strip(): row[1:] for row in (line.split("|")[1:-1] for line in table.splitlines())}
    for column in (3, 4):
        for pixels in (2, 4):
            assert re.sub(" ± \\S+", "", rows[f"shift, pixels: {pixels}"][column].strip()) in PROSE
    for row in ("shift, pixels: 6", "rotation, degrees: 5"):
        assert rows[row][2].strip() in PROSE
    ahead = [float(rows[f"shift, pixels: {pixels}"][2].split()[0]) for pixels in range(7)]
    assert sorted(ahead[:3]) == ahead[:3]
    assert sorted(ahead[2:], reverse=True) == ahead[2:]


@pytest.mark.parametrize(("script", "seeds"), [(convolution_gain, 10), (sample_efficiency, 5), (robustness, 5)])
def test_no_published_run_was_dropped(script, seeds):
    keys = [RunKey.from_record(run.record) for run in published(script.__name__)]
    assert sorted(keys) == sorted(RunKey(name, seed, Recipe()) for name in script.VARIANTS for seed in range(seeds))


def test_the_same_run_in_another_experiment_gives_the_same_weights():
    weights = {}
    paths = list((ROOT / "results").glob("*/*.npz"))
    for path in paths:
        record = Run.from_file(path).record
        weights.setdefault(RunKey.from_record(record), set()).add(record["weights_sha256"])
    assert {len(each) for each in weights.values()} == {1}
    assert len(weights) < len(paths)


def test_the_benchmark():
    from benchmarks import run

    result = json.loads((ROOT / "results" / "benchmark.json").read_text())
    assert len(run.rounds_of(result["contest"], name=run.OURS, model="conv", precision="float32")) >= 5
    table = run.table(result)
    assert table + "\n" == (ROOT / "results" / "benchmark.md").read_text()
    for part in table.split("\n\n"):
        if "bfloat16" not in part and "growth" not in part:
            assert part in README


def test_what_bfloat16_costs():
    for model in ("dense", "conv"):
        assert difference(accuracies(model, "bfloat16", "test"), accuracies(model, "float32", "test")) in PROSE


def test_the_table_of_faults():
    summary, *rows = (ROOT / "results" / "faults.md").read_text().splitlines()
    kinds, failed = len(rows) - 3, sum(int(row.split("|")[4].replace(",", "")) > 0 for row in rows[3:])
    assert f": {kinds} kinds of fault in " in summary
    assert f" minutes, {failed} failed; " in summary
    assert f"{kinds} kinds of fault" in PROSE


def test_every_link_into_the_repository_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http|#)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), target
