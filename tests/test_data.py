"""Loading and downloading Fashion-MNIST: what works, and one example of each kind of fault.

tests/faults has the other cases of each kind.
"""

import gzip
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import trustme
from conftest import ROOT, run_measured
from mirror import (  # noqa: F401 - fixtures
    HTML,
    NO_LENGTH,
    archive_names,
    format_chunked,
    format_half,
    format_headers,
    format_response,
    format_without_length,
    make_archive,
    make_archives,
    make_authority,
    make_client,
    make_context,
    make_start_proxy,
    redirect,
    send,
    send_endlessly,
    send_status,
    stall,
    start_mirror,
    tunnel,
    write_split,
)

from lab import data
from lab.plumbing import sources
from lab.plumbing.sources import CorruptArchive, DataError, read_archive


def test_load_data_returns_what_keras_returns(splits):
    (train_images, train_labels), (test_images, test_labels) = splits
    assert train_images.shape == (60_000, 28, 28)
    assert train_labels.shape == (60_000,)
    assert test_images.shape == (10_000, 28, 28)
    assert test_labels.shape == (10_000,)
    assert {array.dtype for split in splits for array in split} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(np.bincount(train_labels), [6_000] * 10)
    np.testing.assert_array_equal(np.bincount(test_labels), [1_000] * 10)


def test_arrays_are_read_as_they_were_written(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), np.uint8), rng.integers(0, 10, 7, np.uint8)
    monkeypatch.setattr(data, "FILES", write_split(tmp_path, images, labels))
    split = data.load_test_data(tmp_path)
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    assert split.images.dtype == split.labels.dtype == np.uint8
    assert not split.images.flags.writeable
    assert not split.labels.flags.writeable


def test_the_first_images_keep_their_labels():
    split = data.Split(np.arange(5 * 784).reshape(5, 28, 28), np.arange(5)).first(3)
    assert split.images.shape == (3, 28, 28)
    np.testing.assert_array_equal(split.images[:, 0, 0], [0, 784, 1568])
    np.testing.assert_array_equal(split.labels, [0, 1, 2])


def test_test_data_need_no_training_data(archives):
    for name in archive_names()[:2]:
        (archives / name).unlink()
    assert len(data.load_test_data(archives).labels) == 200
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: no such file"):
        data.load_data(archives)


def test_scale_gives_float32_between_0_and_1():
    images = np.arange(256, dtype=np.uint8).repeat(49).reshape(16, 28, 28)
    scaled = data.scale(images)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, images.astype(np.float32) / np.float32(255))
    assert (scaled.min(), scaled.max()) == (0, 1)


# faults of archives


@pytest.mark.fault("data", "truncated archive")
def test_a_truncated_archive_is_corrupt(archives):
    path = archives / archive_names()[0]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptArchive, match=f"{path.name}: corrupt .*end-of-stream"):
        data.load_data(archives)


@pytest.mark.fault("data", "archive with a bit flipped")
def test_an_archive_with_a_flipped_bit_is_corrupt(archive):
    (path, size, sha256), content = archive
    assert read_archive(path, size, sha256) == content
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CorruptArchive, match=f"{path.name}: corrupt"):
        read_archive(path, size, sha256)


@pytest.mark.fault("data", "archive with another digest")
def test_an_archive_with_another_digest_is_corrupt(archives):
    path = archives / archive_names()[1]
    labels = bytearray(gzip.decompress(path.read_bytes()))
    labels[-1] = 0
    path.write_bytes(gzip.compress(labels))
    with pytest.raises(CorruptArchive, match=f"{path.name}: corrupt .*SHA-256"):
        data.load_data(archives)


@pytest.mark.fault("data", "archive that is too short or too long")
def test_an_archive_of_another_size_is_corrupt(archive):
    (path, size, sha256), _ = archive
    with pytest.raises(CorruptArchive, match="instead of"):
        read_archive(path, size + 1, sha256)
    with pytest.raises(CorruptArchive, match="more than"):
        read_archive(path, size - 1, sha256)


@pytest.mark.fault("data", "gzip bomb")
def test_a_gzip_bomb_is_read_no_further_than_the_known_size(archive):
    (path, size, sha256), _ = archive
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    _, before = run_measured("from lab.plumbing import sources")
    message, peak = run_measured(
        "from lab.plumbing import sources\n"
        "try:\n"
        f"    sources.read_archive({str(path)!r}, {size}, {sha256!r})\n"
        "except sources.CorruptArchive as error:\n"
        "    print(error)"
    )
    assert "more than" in message
    assert peak - before < 20


@pytest.mark.fault("data", "missing archive, or a folder, a FIFO or a link loop in its place")
def test_a_missing_archive_is_an_error(archives):
    (archives / archive_names()[3]).unlink()
    with pytest.raises(DataError, match=f"{archive_names()[3]}: no such file"):
        data.load_data(archives)


# sources


def test_the_cache_is_read_before_the_system_folder(client, archives, monkeypatch):
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", archives)
    assert client.load() == str(archives)
    shutil.copytree(archives, sources.keras_cache())
    assert client.load() == str(sources.keras_cache())


def test_a_given_folder_is_the_only_source(client, archives, monkeypatch, tmp_path):
    shutil.copytree(archives, sources.keras_cache())
    assert client.load(archives) == str(archives)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(archives))
    assert client.load() == str(archives)
    with pytest.raises(DataError, match="elsewhere"):
        data.load_data(tmp_path / "elsewhere")
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        data.load_data()


def test_a_source_is_logged_once(archives, tmp_path, caplog):
    shutil.copytree(archives, tmp_path / "copy")
    with caplog.at_level(logging.INFO):
        for folder in (archives, tmp_path / "copy", archives):
            data.load_data(folder)
            data.load_test_data(folder)
    assert caplog.messages == [f"data: {archives}", f"data: {tmp_path / 'copy'}"]


@pytest.mark.fault("data", "corrupt archive in Keras' cache")
def test_a_corrupt_archive_in_the_cache_is_renamed(client, archives, monkeypatch, caplog):
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", archives)
    shutil.copytree(archives, sources.keras_cache())
    corrupt = sources.keras_cache() / archive_names()[2]
    corrupt.write_bytes(corrupt.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert client.load() == str(archives)
    assert f"renamed to {corrupt.name}.corrupt" in caplog.text
    assert not corrupt.exists()
    assert corrupt.with_name(f"{corrupt.name}.corrupt").stat().st_size == 40
    assert len(list(corrupt.parent.glob("*-ubyte.gz"))) == 3


@pytest.mark.fault("data", "no source at all")
def test_one_error_lists_all_sources_that_failed(archives):
    with pytest.raises(DataError) as caught:
        data.load_data()
    message = str(caught.value)
    tried = ("home", "nowhere", "127.0.0.1", "no apt-get")
    for part in (*tried, "--data-dir", sources.DEBIAN_PACKAGE, sources.DOWNLOAD_HOST):
        assert part in message
    assert "\n" not in message


@pytest.mark.fault("data", "captive portal's page instead of an archive")
def test_what_is_fetched_is_verified_before_it_is_kept(client, archives, monkeypatch):
    def fetch_corrupt(folder, _):
        shutil.copytree(archives, folder, dirs_exist_ok=True)
        (folder / archive_names()[3]).write_bytes(b"<html>log in first</html>")
        return folder

    monkeypatch.setattr(sources, "_download", fetch_corrupt)
    with pytest.raises(DataError, match="corrupt"):
        data.load_data()
    assert not sources.keras_cache().exists()
    monkeypatch.setattr(sources, "_download", lambda folder, _: archives)
    client.assert_loads_from(sources.DOWNLOAD_URL)


@pytest.mark.fault("data", "cache that cannot be written")
def test_fetched_data_are_used_even_if_they_cannot_be_kept(client, archives, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(sources, "_download", lambda folder, _: archives)
    (tmp_path / "home").write_text("a file in place of the folder")
    assert client.load() == sources.DOWNLOAD_URL
    assert "not kept for the next time: cannot write" in caplog.text


def write_package_tools(monkeypatch, archives, folder, download):
    """Put an `apt-get` that downloads as this shell command does, and a `dpkg-deb`, before the system's."""
    folder.mkdir()
    unpacked = f'"$3{sources.SYSTEM_FOLDER}"'
    for name, command in (
        ("apt-get", f"case $* in *download*) {download};; *) exit 100;; esac"),  # `update` fails
        ("dpkg-deb", f"mkdir -p {unpacked} && cp {archives}/* {unpacked}"),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sources.shutil, "which", lambda name: name)


def test_the_package_is_unpacked_and_kept(client, archives, monkeypatch, tmp_path):
    write_package_tools(monkeypatch, archives, tmp_path / "bin", "touch x.deb")
    client.assert_loads_from(f"package {sources.DEBIAN_PACKAGE}")
    client.assert_loads_from(str(sources.keras_cache()))


@pytest.mark.fault("data", "package that cannot be downloaded")
def test_a_package_that_cannot_be_downloaded_is_one_line(client, archives, monkeypatch, tmp_path):
    write_package_tools(monkeypatch, archives, tmp_path / "bin", "echo 'first\nE: no such package' >&2; exit 100")
    assert f"package {sources.DEBIAN_PACKAGE}: E: no such package." in client.assert_fails_cleanly("not found")


def test_two_processes_fill_an_empty_cache_at_once(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lab.data import load_data; print(load_data()[0][0].shape)"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[0] for process in both] == ["(60000, 28, 28)\n"] * 2
    kept = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert all(name.endswith("-ubyte.gz") and not name.startswith(".") for name in kept)


# the download


def test_a_download_is_verified_kept_and_not_repeated(mirror, client):
    client.assert_loads_from(sources.DOWNLOAD_URL)
    client.assert_loads_from(str(sources.keras_cache()))
    assert mirror.connections == 4


@pytest.mark.parametrize("content", [format_chunked, format_without_length])
def test_a_download_needs_no_content_length(mirror, client, content):
    mirror.answer = send(content)
    client.assert_loads_from(sources.DOWNLOAD_URL)


@pytest.mark.parametrize("location", [b"https://127.0.0.1:PORT/moved/%s", b"/moved/%s", b"moved/%s"])
def test_redirects_to_https_are_followed(mirror, client, location):
    names = iter(archive_names())

    def answer(wire, archive):
        address = (location % next(names).encode()).replace(b"PORT", b"%d" % mirror.port)
        wire.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + address + b"\r\n\r\n")
        send_endlessly(b"x")(wire, archive)  # a page without end, which must not be read

    mirror.answer = answer
    client.assert_loads_from(sources.DOWNLOAD_URL)
    assert mirror.connections == 8


def test_a_download_goes_through_a_proxy(mirror, client, start_proxy):
    proxy = start_proxy(tunnel)
    client.assert_loads_from(sources.DOWNLOAD_URL)
    assert (proxy.connections, mirror.connections) == (4, 4)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(answer, reason, id=fault, marks=pytest.mark.fault("data", f"mirror that {fault}"))
        for fault, answer, reason in (
            ("stalls", send(format_half, stall), "timed out"),
            ("sends slowly without end", send(format_headers, send_endlessly(b"\x1f")), "not done after"),
            ("resets or closes the connection", send(format_half), r"truncated, \d+ bytes before its end"),
            ("sends too much", send(NO_LENGTH, send_endlessly(bytes(1 << 16), 0)), "sends more than it should"),
            ("answers with something else", send(format_response(HTML)), "corrupt .*[Nn]ot a gzip"),
            ("answers with an error status", send_status(b"404 Not Found"), "HTTP Error 404: Not Found"),
            (
                "redirects to something other than https",
                redirect(b"http://127.0.0.1:PORT/x"),
                r"refused: redirects to http://127\.0\.0\.1:\d+/x, which is not https",
            ),
        )
    ],
)
def test_a_fault_on_the_last_archive_is_one_line_and_no_archive_is_kept(mirror, client, answer, reason):
    mirror.answer, mirror.bad = answer, "t10k-labels"
    message = client.assert_fails_cleanly(reason)
    assert f"{sources.DOWNLOAD_URL}: t10k-labels-idx1-ubyte.gz: " in message
    assert mirror.connections == 4
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror that redirects without end")
def test_an_endless_redirect_is_given_up(mirror, client):
    mirror.answer = redirect(b"/train-images-idx3-ubyte.gz")
    client.assert_fails_cleanly("HTTP Error 302: .*infinite loop")
    assert mirror.connections < 12
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror with an untrusted certificate")
def test_a_certificate_of_an_unknown_authority_is_refused(mirror, client):
    mirror.context = make_context(trustme.CA().issue_cert("127.0.0.1"))
    client.assert_fails_cleanly("CERTIFICATE_VERIFY_FAILED.*unable to get local issuer|self.signed")
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror without TLS, or with an incomplete handshake")
def test_a_mirror_without_tls_is_refused(mirror, client):
    mirror.context, mirror.serve = None, lambda wire: wire.sendall(format_response(HTML))
    client.assert_fails_cleanly("SSL")
    client.assert_next_source_serves()


@pytest.mark.fault("data", "proxy that refuses or hangs; malformed address of a proxy")
def test_a_proxy_that_refuses_is_one_line(mirror, client, start_proxy):
    start_proxy(send(b"HTTP/1.0 407 Who?\r\n\r\n"))
    client.assert_fails_cleanly("Tunnel connection failed: 407 Who")
    client.assert_next_source_serves()
    assert not mirror.connections


@pytest.mark.fault("data", "mirror with a fault, met by a program")
def test_a_program_reports_a_truncated_download_in_one_line(mirror, client):
    mirror.answer = send(format_half)
    process = client.start_program()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    *notes, error = stderr.splitlines()
    assert all(note.startswith("fetching Fashion-MNIST") for note in notes)
    assert re.match("error: .*truncated", error)
    assert not client.temporary_files()


@pytest.mark.fault("data", "stalled download that a signal ends")
def test_an_interrupted_download_leaves_nothing(mirror, client, tmp_path):
    mirror.answer = send(format_half, stall)
    process = client.start_program()
    while not mirror.connections:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert not client.temporary_files()
    assert not (tmp_path / "home").exists()
