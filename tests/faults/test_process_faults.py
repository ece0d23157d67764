"""Faults of processes, disks and environments, injected for real, at --smoke size."""

import json
import os
import pstats
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from conftest import ROOT, read_until, run_script, start
from PIL import Image

from lab.study.records import Run


def record_of(folder, script):
    return json.loads((folder / "smoke" / script).with_suffix(".json").read_text())


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


@pytest.mark.fault("processes", "training stopped after an epoch, then --resume: the same weights, bit for bit")
@pytest.mark.parametrize("script", ["deep_learning.py", "deep_learning_conv.py"])
def test_a_resumed_training_is_the_uninterrupted_one_whatever_the_signal(tmp_path, script, soak, count_cases):
    arguments = (script, "--smoke", "--epochs", 4)
    run_script(*arguments, "--output-dir", tmp_path / "whole")
    expected = record_of(tmp_path / "whole", script)
    numbers = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM] if soak else [signal.SIGTERM]
    for number in numbers:
        process = start(*arguments, "--output-dir", tmp_path)
        read_until(process.stdout, "epoch 2/4")
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode != 0
        resumed = run_script(*arguments, "--resume", "--output-dir", tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert int(re.search(r"resumed: after epoch (\d)$", resumed.stderr, re.M).group(1)) >= 2
        found = record_of(tmp_path, script)
        assert all(found[part] == expected[part] for part in ("weights_sha256", "test_loss", "train_loss"))
        assert all(found["history"][name] == expected["history"][name] for name in ("accuracy", "loss"))
        shutil.rmtree(tmp_path / "smoke")
    count_cases(len(numbers))


@pytest.mark.fault("processes", "checkpoint that is corrupt or of another training: from the start, with a note")
def test_a_checkpoint_that_does_not_fit_is_not_used(tmp_path, smoke_saves):
    record = record_of(smoke_saves[0], "deep_learning.py")
    checkpoint = tmp_path / "smoke" / "deep_learning.checkpoint.npz"
    checkpoint.parent.mkdir()

    def resumed():
        process = run_script("deep_learning.py", "--smoke", "--resume", "--output-dir", tmp_path)
        assert process.returncode == 0, process.stderr
        assert record_of(tmp_path, "deep_learning.py")["weights_sha256"] == record["weights_sha256"]
        assert not checkpoint.exists()
        return process.stderr

    other = {"provenance": {**record, "seed": "other"}, "history": {}}
    Run(other, {f"variable{n}": np.zeros(1) for n in range(30)}, np.empty(0)).save(checkpoint)
    assert re.search(r"from the start: .* is of a training with different .*seed", resumed())
    checkpoint.write_bytes(b"PK\x03\x04 no archive")
    assert re.search(r"from the start: .*: corrupt", resumed())


@pytest.mark.fault("processes", "SIGINT, SIGTERM or SIGKILL at any moment: every file absent, old or whole")
def test_killed_at_any_moment_leaves_no_broken_file(tmp_path, soak, count_cases):
    commands = [("deep_learning.py", "--smoke"), ("confusion_matrix.py", "--smoke", "--save")]
    numbers = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    moments = random.Random(0)
    started = time.monotonic()
    assert run_script(*commands[0], "--output-dir", tmp_path / "first").returncode == 0
    longest = time.monotonic() - started
    kills = 100 if soak else 6
    for n in range(kills):
        command, number = commands[n % 2], numbers[n // 2 % 3]
        if moments.random() < 0.3:
            shutil.rmtree(tmp_path / "smoke", ignore_errors=True)
        process = start(*command, "--output-dir", tmp_path)
        time.sleep(moments.uniform(0, longest))
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
        # before a script's first line, while Python imports, an interrupt is shown by Python itself
        assert "Traceback" not in complaints or (number == signal.SIGINT and "in main" not in complaints)
        assert process.returncode in (0, -number, 128 + number, 1 if number == signal.SIGINT else 0)
        assert_whole(tmp_path)
        if number != signal.SIGKILL:  # nothing is left behind but by what cannot be caught
            assert [str(process.pid) in path.name for path in hidden_files(tmp_path)].count(True) == 0
    for command in commands:
        process = run_script(*command, "--output-dir", tmp_path)
        assert process.returncode == 0, process.stderr
    assert_whole(tmp_path)
    count_cases(kills)


@pytest.mark.fault("processes", "SIGKILL in the middle of writing: the next writer removes what is left")
def test_the_next_writer_removes_what_a_killed_one_has_left(tmp_path):
    program = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from lab.guard.files import atomic_write\n"
        f"with atomic_write({str(tmp_path / 'a b.json')!r}) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program])
    (left,) = hidden_files(tmp_path)
    alive = left.with_name(re.sub(r"-\d+-", f"-{os.getpid()}-", left.name))
    others = left.with_name(left.name.replace("a b", "other"))
    for path in (alive, others):
        path.write_text("half")
    subprocess.run([sys.executable, "-c", program.replace("os.kill(os.getpid(), 9)", "")], check=True)
    assert (tmp_path / "a b.json").read_text() == "half"
    assert sorted(hidden_files(tmp_path)) == sorted([alive, others])


@pytest.mark.fault("processes", "eight at once on an empty cache and the same saves/: one whole model")
def test_many_at_once_share_cache_and_saves(tmp_path, soak, count_cases):
    n = 8 if soak else 3
    environment = {"KERAS_HOME": str(tmp_path / "home")}
    together = [start("deep_learning.py", "--smoke", "--output-dir", tmp_path, **environment) for _ in range(n)]
    for process in together:
        printed, complaints = process.communicate(timeout=600)
        assert process.returncode == 0, complaints
        assert printed.splitlines()[-1].startswith("test accuracy")
    assert_whole(tmp_path / "smoke")
    assert not hidden_files(tmp_path)
    after = run_script("confusion_matrix.py", "--smoke", "--output-dir", tmp_path, **environment)
    assert "reused: " in after.stderr
    count_cases(n)


@pytest.mark.fault("environment", "no HOME; a locale that is not UTF-8; a keras.json for another backend")
@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": ""},
        {"HOME": "/nowhere"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"KERAS_HOME": "settings"},
    ],
)
def test_unusual_environments_do_not_matter(tmp_path, smoke_saves, environment):
    (tmp_path / "gârment").mkdir()
    (tmp_path / "settings").mkdir()
    settings = {"backend": "jax", "nnx_enabled": True, "floatx": "float16", "image_data_format": "channels_first"}
    (tmp_path / "settings" / "keras.json").write_text(json.dumps(settings))
    process = run_script(
        *("deep_learning_pred.py", "--smoke", "--output-dir", smoke_saves[0]),
        *("--save", tmp_path / "gârment" / "seen.png"),
        cwd=tmp_path,
        **environment,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1].endswith("of 20 correct")
    assert "reused: " in process.stderr
    assert (tmp_path / "gârment" / "seen.png").is_file()


def in_namespace(mounts, *command, **settings):
    """Run a command where the mounts, shell commands, are done for it alone; skip the test if that is forbidden."""
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("no mount namespaces on this machine")
    shell = ["sh", "-ec", f'{mounts}\nexec "$@"', "sh", sys.executable, ROOT / command[0]]
    return subprocess.run(
        [*unshare, *shell, *map(str, command[1:])], capture_output=True, text=True, timeout=300, **settings
    )


@pytest.mark.fault("environment", "a user without a home folder")
def test_a_user_without_a_home_can_train(tmp_path):
    command = ("deep_learning.py", "--smoke", "--output-dir")
    process = in_namespace("mount --bind /dev/null /etc/passwd; unset HOME", *command, tmp_path, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["smoke"]
    process = in_namespace("mount --bind /dev/null /etc/passwd; unset HOME", *command, "~/saves", cwd=tmp_path)
    assert process.returncode == 2
    assert "'~/saves'" in process.stderr.splitlines()[-1]


@pytest.mark.fault("disk", "full while a model, checkpoint or figure is written: one line, the old file or none")
@pytest.mark.parametrize("kilobytes", [8, 700, 2_000, 3_000])
def test_a_full_disk_is_one_line_and_no_broken_file(tmp_path, kilobytes):
    kept = tmp_path / "kept"
    kept.mkdir()
    process = in_namespace(
        f"mkdir -p {tmp_path}/small; mount -t tmpfs -o size={kilobytes}k tmpfs {tmp_path}/small\n"
        f'trap \'cp -r {tmp_path}/small/. {kept}\' EXIT; run() {{ "$@"; }}; set +e; run "$@"; exit',
        *("deep_learning.py", "--smoke", "--epochs", 2, "--output-dir", tmp_path / "small"),
    )
    assert_whole(kept)
    assert not hidden_files(kept)
    assert "Traceback" not in process.stderr
    if process.returncode:
        assert process.returncode == 1
        assert re.match(r"error: cannot write .* \(No space left on device\)", process.stderr.splitlines()[-1])
        assert not list(kept.rglob("*.keras"))
    assert bool(process.returncode) == (kilobytes < 3_000)


@pytest.mark.fault("disk", "limit on the size of files")
@pytest.mark.parametrize("script", ["deep_learning.py", "confusion_matrix.py", "deep_learning_conv.py"])
def test_a_limit_on_file_sizes_is_one_line(tmp_path, script):
    process = subprocess.run(
        [sys.executable, ROOT / script, "--smoke", "--output-dir", tmp_path],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert process.returncode == 1
    assert re.match(r"error: cannot write .* \(File too large\)", process.stderr.splitlines()[-1])
    assert "Traceback" not in process.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.fault("disk", "read-only output folder: the error comes before the training")
def test_a_read_only_folder_is_known_before_the_training(tmp_path):
    process = in_namespace(
        f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}",
        *("deep_learning.py", "--smoke", "--output-dir", tmp_path),
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert re.match(r"error: cannot write .* \(Read-only file system\)", process.stderr.splitlines()[-1])


@pytest.mark.fault("disk", "output folder deleted in the middle of the training")
def test_a_deleted_output_folder_is_created_again(tmp_path):
    process = start("deep_learning.py", "--smoke", "--epochs", 3, "--output-dir", tmp_path / "out")
    read_until(process.stdout, "epoch 1/3")
    shutil.rmtree(tmp_path / "out")
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert_whole(tmp_path / "out")
    assert (tmp_path / "out" / "smoke" / "deep_learning.keras").is_file()


@pytest.mark.fault("environment", "no writable temporary folder")
@pytest.mark.parametrize(
    "command", ["deep_learning.py", "confusion_matrix.py", "convolution_gain.py --seeds 1 --variants dense"]
)
def test_no_temporary_folder_is_no_error(tmp_path, command):
    folders = [folder for folder in ("/tmp", "/var/tmp", "/usr/tmp", "/dev/shm") if os.path.isdir(folder)]
    read_only = "".join(f"mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}\n" for folder in folders)
    process = in_namespace(
        f"{read_only}mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,rw {tmp_path}\ncd /proc",
        *(*command.split(), "--smoke", "--output-dir", tmp_path),
    )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.fault("memory", "address space of 2.5 GiB")
@pytest.mark.parametrize(
    "command",
    ["deep_learning.py", "deep_learning_conv.py", "deep_learning_pred.py", "confusion_matrix.py"]
    + ["convolution_gain.py --short", "convolution_gain.py --seeds 1 --variants conv --jobs 1"],
)
def test_addresses_of_two_and_a_half_gibibytes_are_enough(tmp_path, command, soak):
    # with both trainings in one process, --short takes more addresses in full size
    size = () if soak and "--short" not in command else ("--smoke",)
    process = subprocess.run(
        [sys.executable, *command.split(), *size, "--epochs", "1", "--output-dir", tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (5 << 29, 5 << 29)),
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.fault("processes", "unexpected error: its type, and with --debug its traceback")
def test_an_unexpected_error_shows_its_type(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('broken on purpose')")
    arguments = ("deep_learning.py", "--smoke", "--output-dir", tmp_path)
    process = run_script(*arguments, PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "error: RuntimeError: broken on purpose (--debug shows where)"
    assert "Traceback" not in process.stderr
    assert "Traceback" in run_script(*arguments, "--debug", PYTHONPATH=str(tmp_path)).stderr


def as_limited_user(*command):
    """Return a command for a user whose number of processes can be limited, as root's cannot."""
    capability = "+dac_override"  # to read what only root may
    user = ["--reuid=65534", "--clear-groups", f"--inh-caps={capability}", f"--ambient-caps={capability}"]
    return [*(["setpriv", *user] if os.getuid() == 0 else []), *command]


@pytest.mark.fault("processes", "death in native code while TensorFlow starts: its own words")
@pytest.mark.parametrize(
    ("prefix", "flags", "words"),
    [
        ([], "--nonsense", "Unknown flag in TF_XLA_FLAGS: --nonsense"),
        (as_limited_user("prlimit", "--nproc=4"), "", "pthread_create"),
    ],
)
def test_a_death_in_native_code_is_not_silent(tmp_path, prefix, flags, words):
    command = [*prefix, sys.executable, ROOT / "deep_learning.py", "--smoke", "--output-dir", tmp_path]
    environment = {**os.environ, "TF_XLA_FLAGS": flags}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode != 0
    assert words in process.stderr


@pytest.mark.fault("processes", "standard output closed early (head -1), or streams closed from the start (a daemon)")
def test_output_that_is_not_read_to_the_end_is_one_line(tmp_path):
    command = f"'{sys.executable}' '{ROOT / 'deep_learning.py'}' --smoke --epochs 3 --output-dir {tmp_path} | head -1; "
    process = subprocess.run(["bash", "-c", command + "exit ${PIPESTATUS[0]}"], capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stdout.startswith("Model: ")
    assert process.stderr.splitlines()[1:] == ["error: standard output was closed before the end"]


@pytest.mark.fault("processes", "standard output closed early (head -1), or streams closed from the start (a daemon)")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(tmp_path, closed):
    command = f"'{sys.executable}' '{ROOT / 'deep_learning.py'}' --smoke --output-dir {tmp_path} {closed}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert_whole(tmp_path)
    assert (tmp_path / "smoke" / "deep_learning.keras").is_file()


@pytest.mark.fault(
    "processes", "a console that can only write and flush; a profiler that writes when the script is done"
)
def test_consoles_and_profilers_work(tmp_path):
    (tmp_path / "console.py").write_text(
        "import runpy, sys\n"
        "class Console:\n"
        "    def __init__(self, stream): self.write, self.flush = stream.write, stream.flush\n"
        "sys.stdout, sys.stderr = Console(sys.stdout), Console(sys.stderr)\n"
        f"sys.path.insert(0, {str(ROOT)!r}); del sys.argv[0]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__'); print('the console goes on')"
    )
    script = (ROOT / "deep_learning.py", "--smoke", "--output-dir", tmp_path)
    process = run_script("-m", "cProfile", "-o", tmp_path / "profile", tmp_path / "console.py", *script)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "the console goes on"
    assert any(name == "fit" for _, _, name in pstats.Stats(str(tmp_path / "profile")).stats)


@pytest.mark.fault("disk", "figure's path cannot be written: the error comes before the training")
def test_a_figure_that_cannot_be_written_is_known_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    for name in ("deep_learning_pred.py", "confusion_matrix.py"):
        process = run_script(name, "--smoke", "--output-dir", tmp_path, "--save", tmp_path / "file" / "x.png")
        assert process.returncode == 1
        assert process.stderr.startswith("error: cannot write")
        assert not (tmp_path / "smoke").exists()


@pytest.mark.fault("processes", "SIGINT or SIGTERM in the training: never a crash")
def test_a_signal_in_the_training_never_crashes_it(tmp_path, soak, count_cases):
    """At moments that are spread over a gradient step and over what is between steps, with both cores busy."""
    busy = [start("-c", "while True: pass") for _ in range(2)]
    moments, tries = random.Random(0), 60 if soak else 6
    try:
        for n in range(tries):
            number = (signal.SIGTERM, signal.SIGINT)[n % 2]
            script = ("deep_learning.py", "deep_learning_conv.py")[n // 2 % 2]
            process = start(script, "--smoke", "--epochs", 1000, "--output-dir", tmp_path)
            read_until(process.stdout, "epoch 1/1000")
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(number)
            _, complaints = process.communicate(timeout=60)
            assert process.returncode == 128 + number, complaints
    finally:
        for process in busy:
            process.kill()
            process.communicate()
    count_cases(tries)
