"""Faults of processes, disks and environments, injected for real, at --smoke size."""

import json
import os
import pstats
import random
import re
import shutil
import signal
import subprocess
import time
import zipfile

import pytest
from conftest import ROOT, read_record, run_script, start
from PIL import Image

import deep_learning
from lab.study.records import Run

DENSE = ("deep_learning.py", "--smoke", "--output-dir")
GAIN = ("convolution_gain.py", "--smoke", "--output-dir")


def assert_whole(folder):
    """Make sure that every file in the folder that has its own name can be read to its end."""
    for path in (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.suffix in (".keras", ".npz"):
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            Image.open(path).load()


def hidden_files(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


def run_mounted(mounts, *command, code=0):
    """Run a script where the mounts, shell commands, are done for it alone; skip the test if that is forbidden."""
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("no mount namespaces on this machine")
    return run_script(*command, code=code, wrapper=[*unshare, "sh", "-ec", f'{mounts}\nexec "$@"', "sh"])


@pytest.mark.fault("processes", "SIGINT, SIGTERM or SIGKILL at any moment: every file absent, old or whole")
def test_killed_at_any_moment_leaves_no_broken_file(tmp_path, soak, count_cases):
    commands = [DENSE, ("confusion_matrix.py", "--smoke", "--save", "--output-dir")]
    moments = random.Random(0)
    started = time.monotonic()
    run_script(*DENSE, tmp_path / "first")
    longest = time.monotonic() - started
    kills = 100 if soak else 3
    for n in range(kills):
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[(n + n // 3) % 3]
        if moments.random() < 0.3:
            shutil.rmtree(tmp_path / "smoke", ignore_errors=True)
        process = start(*commands[n % 2], tmp_path)
        time.sleep(moments.uniform(0, longest))
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
        # before a script's first line, while Python imports, an interrupt is shown by Python itself
        assert "Traceback" not in complaints or (number == signal.SIGINT and "in main" not in complaints)
        assert process.returncode in (0, -number, 128 + number, 1 if number == signal.SIGINT else 0)
        assert_whole(tmp_path)
        if number != signal.SIGKILL:  # nothing is left behind but by what cannot be caught
            assert not [path for path in hidden_files(tmp_path) if str(process.pid) in path.name]
    for command in commands:
        run_script(*command, tmp_path)
    assert_whole(tmp_path)
    count_cases(kills)


@pytest.mark.fault("processes", "SIGKILL in the middle of writing: the next writer removes what is left")
def test_the_next_writer_removes_what_a_killed_one_has_left(tmp_path):
    program = (
        "import os; from lab.guard.files import atomic_write\n"
        f"with atomic_write({str(tmp_path / 'a b.json')!r}) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    run_script("-c", program, code=-signal.SIGKILL)
    (left,) = hidden_files(tmp_path)
    alive = left.with_name(re.sub(r"-\d+-", f"-{os.getpid()}-", left.name))
    others = left.with_name(left.name.replace("a b", "other"))
    for path in (alive, others):
        path.write_text("half")
    run_script("-c", program.replace("os.kill(os.getpid(), 9)", ""))
    assert (tmp_path / "a b.json").read_text() == "half"
    assert sorted(hidden_files(tmp_path)) == sorted([alive, others])


@pytest.mark.fault("processes", "eight at once on an empty cache and the same saves/: one whole model")
def test_many_at_once_share_cache_and_saves(tmp_path, soak, count_cases):
    n = 8 if soak else 2
    environment = {"KERAS_HOME": str(tmp_path / "home")}
    for process in [start(*DENSE, tmp_path, **environment) for _ in range(n)]:
        printed, complaints = process.communicate(timeout=600)
        assert process.returncode == 0, complaints
        assert printed.splitlines()[-1].startswith("test accuracy")
    assert_whole(tmp_path / "smoke")
    assert not hidden_files(tmp_path)
    after = run_script("confusion_matrix.py", "--smoke", "--output-dir", tmp_path, **environment)
    assert "reused: " in after.stderr
    count_cases(n)


@pytest.mark.fault("processes", "SIGINT or SIGTERM in the training: never a crash")
def test_a_signal_in_the_training_never_crashes_it(tmp_path, soak, count_cases):
    """At moments that are spread over a gradient step and over what is between steps, with both cores busy."""
    busy = [start("-c", "while True: pass") for _ in range(2)]
    moments, tries = random.Random(0), 60 if soak else 2
    try:
        for n in range(tries):
            number = (signal.SIGTERM, signal.SIGINT)[n % 2]
            script = ("deep_learning.py", "deep_learning_conv.py")[(n + n // 2) % 2]
            process = start(script, "--smoke", "--epochs", 1000, "--output-dir", tmp_path)
            assert any(line.startswith("epoch 1/1000") for line in process.stdout)
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(number)
            _, complaints = process.communicate(timeout=60)
            assert process.returncode == 128 + number, complaints
    finally:
        for process in busy:
            process.kill()
            process.communicate()
    count_cases(tries)


@pytest.mark.fault("processes", "SIGINT or SIGKILL in the training: its checkpoint is whole, and resumed from")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_training_leaves_its_checkpoint_and_resumes_to_the_same_weights(tmp_path, number, code):
    arguments = ["--smoke", "--epochs", "40", "--output-dir"]
    process = start("deep_learning.py", *arguments, tmp_path)
    assert any(line.startswith("epoch 2/40") for line in process.stdout)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.splitlines()[-1] == "interrupted" if number == signal.SIGINT else "Traceback" not in stderr
    (checkpoint,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert checkpoint.name == "deep_learning.checkpoint.npz"
    assert len(Run.from_file(checkpoint).record["history"]["seconds"]) >= 2
    deep_learning.main([*arguments, str(tmp_path), "--resume"])
    deep_learning.main([*arguments, str(tmp_path / "whole")])
    resumed, whole = read_record(tmp_path), read_record(tmp_path / "whole")
    for part in ("weights_sha256", "test_loss", "train_loss", "data_sha256"):
        assert resumed[part] == whole[part]
    assert resumed["history"]["loss"] == whole["history"]["loss"]
    assert not checkpoint.exists()


@pytest.mark.fault("processes", "unexpected error: its type, and with --debug its traceback")
def test_an_unexpected_error_shows_its_type(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('broken on purpose')")
    process = run_script(*DENSE, tmp_path, code=1, PYTHONPATH=str(tmp_path))
    assert process.stderr.splitlines()[-1] == "error: RuntimeError: broken on purpose (--debug shows where)"
    assert "Traceback" not in process.stderr
    assert "Traceback" in run_script(*DENSE, tmp_path, "--debug", code=1, PYTHONPATH=str(tmp_path)).stderr


@pytest.mark.fault("processes", "death in TensorFlow's native code while it starts: its own words")
def test_a_death_in_native_code_is_not_silent(tmp_path):
    process = run_script(*DENSE, tmp_path, code=None, TF_XLA_FLAGS="--nonsense")
    assert process.returncode != 0
    assert "Unknown flag in TF_XLA_FLAGS: --nonsense" in process.stderr


@pytest.mark.fault("processes", "standard output closed early (head -1), or streams closed from the start (a daemon)")
@pytest.mark.parametrize(("closed", "code"), [("| head -1", 1), ("<&- >&- 2>&-", 0)])
def test_closed_streams_are_no_traceback(tmp_path, closed, code):
    wrapper = ["bash", "-c", f'"$@" {closed}; exit ${{PIPESTATUS[0]}}', "bash"]
    process = run_script(*DENSE, tmp_path, code=code, wrapper=wrapper)
    if code:
        assert process.stdout[:6] == "Model:"
        assert process.stderr.splitlines()[1:] == ["error: standard output was closed before the end"]
    else:
        assert_whole(tmp_path)
        assert (tmp_path / "smoke" / "deep_learning.keras").is_file()


@pytest.mark.fault("environment", "console that can only write and flush; profiler that writes when all is done")
def test_consoles_and_profilers_work(tmp_path):
    (tmp_path / "console.py").write_text(
        "import runpy, sys\n"
        "class Console:\n"
        "    def __init__(self, stream): self.write, self.flush = stream.write, stream.flush\n"
        "sys.stdout, sys.stderr = Console(sys.stdout), Console(sys.stderr)\n"
        f"sys.path.insert(0, {str(ROOT)!r}); del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__'); print('the console goes on')"
    )
    script = (tmp_path / "console.py", ROOT / DENSE[0], *DENSE[1:], tmp_path)
    process = run_script("-m", "cProfile", "-o", tmp_path / "profile", *script)
    assert process.stdout.splitlines()[-1] == "the console goes on"
    assert any(name == "fit" for _, _, name in pstats.Stats(str(tmp_path / "profile")).stats)


USES_KERAS = """
{before}
from lab.training.startup import start_tensorflow

start_tensorflow()
start_tensorflow(2)

import keras, numpy, tensorflow
keras.visualization.plot_image_gallery(numpy.zeros((1, 28, 28, 3)), value_range=(0, 1), path={figure!r})
print(tensorflow.config.threading.get_intra_op_parallelism_threads(), keras.config.backend())
"""
OTHER_THREADS = (
    "note: TensorFlow had already started, with its own number of threads; "
    "results may differ in the last bits from those of a run with 2 threads"
)


@pytest.mark.parametrize(
    ("before", "threads", "notes"),
    [("", "2", 0), ("import keras, tensorflow", "2", 0), ("import keras; keras.ops.ones(1)", "0", 1)],
)
def test_keras_may_have_been_imported_or_used_before(tmp_path, before, threads, notes):
    program = USES_KERAS.format(before=before, figure=str(tmp_path / "gallery.png"))
    process = run_script("-c", program, MPLBACKEND="Agg")
    assert process.stdout.split() == [threads, "tensorflow"]
    assert process.stderr.splitlines().count(OTHER_THREADS) == notes
    assert (tmp_path / "gallery.png").is_file()
    if not before:
        assert process.stderr == ""  # nothing of what TensorFlow says while it starts


@pytest.mark.fault("environment", "no HOME; a locale that is not UTF-8; a keras.json for other backends")
def test_an_unusual_environment_does_not_matter(tmp_path, smoke_saves):
    settings = {"backend": "jax", "nnx_enabled": True, "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "keras.json").write_text(json.dumps(settings))
    environment = {"HOME": "", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "KERAS_HOME": "settings"}
    environment |= {"KERAS_MAX_EPOCHS": "0", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    run_script(*DENSE, tmp_path / "gârment", cwd=tmp_path, **environment)
    found, expected = read_record(tmp_path / "gârment"), read_record(smoke_saves[0])
    assert all(found[name] == expected[name] for name in ("weights_sha256", "test_loss", "train_loss"))


@pytest.mark.fault("environment", "user without a home folder")
def test_a_user_without_a_home_can_train(tmp_path):
    if os.getuid():
        pytest.skip("only root can become a user whom the system does not know")
    # with root's access to files, but with no home
    unknown = ["setpriv", "--reuid=64999", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    run_script(*DENSE, tmp_path, cwd=tmp_path, wrapper=[*unknown, "env", "-u", "HOME"])
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]


@pytest.mark.fault("environment", "no writable temporary folder")
def test_no_temporary_folder_is_no_error(tmp_path):
    folders = [folder for folder in ("/tmp", "/var/tmp", "/usr/tmp", "/dev/shm") if os.path.isdir(folder)]
    read_only = "".join(f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}\n" for folder in folders)
    process = run_mounted(
        f"{read_only}mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,rw {tmp_path}\ncd /proc",
        *(*GAIN, tmp_path, "--seeds", 1, "--variants", "dense"),
    )
    assert "Traceback" not in process.stderr


@pytest.mark.fault("memory", "address space of 2.5 GiB")
@pytest.mark.parametrize("more", [["--short"], ["--seeds", 1, "--variants", "conv", "--jobs", 1]])
def test_addresses_of_two_and_a_half_gibibytes_are_enough(tmp_path, more):
    run_script(*GAIN, tmp_path, *more, wrapper=["prlimit", f"--as={5 << 29}"], MPLBACKEND="Agg")


@pytest.mark.fault("disk", "full while a model, checkpoint or figure is written: one line, the old file or none")
@pytest.mark.parametrize("kilobytes", [700, 2_000])  # no room for a checkpoint, for a model beside it
def test_a_full_disk_is_one_line_and_no_broken_file(tmp_path, kilobytes):
    kept = tmp_path / "kept"
    kept.mkdir()
    process = run_mounted(
        f"mkdir -p {tmp_path}/small; mount -t tmpfs -o size={kilobytes}k tmpfs {tmp_path}/small\n"
        f'trap \'cp -r {tmp_path}/small/. {kept}\' EXIT; run() {{ "$@"; }}; set +e; run "$@"; exit',
        *(*DENSE, tmp_path / "small", "--epochs", 2),
        code=1,
    )
    assert "no checkpoint of this epoch: " in process.stderr
    assert_whole(kept)
    assert not hidden_files(kept)
    assert "Traceback" not in process.stderr
    assert re.match(r"error: cannot write .* \(No space left on device\)", process.stderr.splitlines()[-1])
    assert not list(kept.rglob("*.keras"))


@pytest.mark.fault("disk", "read-only output folder: the error comes before the training")
def test_a_read_only_folder_is_known_before_the_training(tmp_path):
    read_only = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}"
    process = run_mounted(read_only, *DENSE, tmp_path, code=1)
    assert process.stdout == ""
    assert re.match(r"error: cannot write .* \(Read-only file system\)", process.stderr.splitlines()[-1])
