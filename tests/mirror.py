"""Made-up data sets, and a real HTTPS server on this machine that serves them, well or badly.

How a mirror answers is a function of its connection and of the content of the file that was requested.
"""

import contextlib
import gzip
import hashlib
import socket
import ssl
import tempfile
import threading
import time

import numpy as np
import pytest
import trustme
from conftest import start

from lab.guard import sources
from lab.guard.data_files import DataError
from lab.training import data

NAMES = [name for files in data.FILES.values() for name in files]
HTML = b"<!DOCTYPE html><html><title>Log in to the network</title></html>"
NO_LENGTH = b"HTTP/1.0 200 OK\r\n\r\n"


# data sets


def format_idx(array):
    """Return the bytes of an IDX file that holds a uint8 array."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def make_arrays(train=300, test=200, seed=0):
    """Return images and labels of a training and of a test set, in the order of the files: four uint8 arrays."""
    rng = np.random.default_rng(seed)
    sizes = (train, test)
    return [array for n in sizes for array in (rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n) % 10)]


def write_data_set(folder, arrays, suffix=".gz", compress=gzip.compress):
    """Write arrays as the four files of a data set; return their SHA-256 by name."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = dict(zip(NAMES, map(format_idx, arrays), strict=True))
    for name, content in contents.items():
        (folder / f"{name}{suffix}").write_bytes(compress(content))
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def write_npz(path, arrays):
    """Write arrays as Keras' mnist.npz has them."""
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(path, **{name: array.astype(np.uint8) for name, array in zip(names, arrays, strict=True)})


@pytest.fixture(name="archives")
def make_archives(monkeypatch, tmp_path):
    """Write made-up Fashion-MNIST, and MNIST as mnist.npz, to a folder no source knows, all being empty; return it."""
    folder = tmp_path / "archives"
    digests = {"fashion-mnist": write_data_set(folder, make_arrays())}
    digests["mnist"] = write_data_set(tmp_path / "mnist files", make_arrays(seed=1))
    write_npz(folder / "mnist.npz", make_arrays(seed=1))
    monkeypatch.setattr(data, "DIGESTS", digests)
    monkeypatch.setattr(sources, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(sources, "DOWNLOAD_URL", "https://127.0.0.1:9/")
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)
    sources.note.cache_clear()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    for name in ("FASHION_MNIST_DIR", "MNIST_DIR", *(f"{kind}_proxy" for kind in ("http", "https", "all", "no"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


class Client:
    """Loads the made-up data and checks what is left behind."""

    def __init__(self, folder, caplog):
        self.folder, self.caplog = folder, caplog
        self.cache = folder / "home" / "datasets"

    def load(self, name="fashion-mnist", folder=None):
        """Load the data; return the source that the log names."""
        sources.note.cache_clear()
        logged = len(self.caplog.messages)
        train, test = data.load_data(data.DataSet(name, folder))
        assert (len(train.images), len(train.labels), len(test.images), len(test.labels)) == (300, 300, 200, 200)
        assert not self.temporary_files()
        (line,) = (line for line in self.caplog.messages[logged:] if line.startswith("data: "))
        return line.removeprefix("data: ")

    def kept_files(self):
        """Return the names of the files in Keras' cache, sorted."""
        return sorted(path.name for path in self.folder.glob("home/**/*.*"))

    def assert_fails_cleanly(self, reason):
        """Load; check that it fails soon, with one line that gives the reason, and leaves no file; return the line."""
        started = time.monotonic()
        with pytest.raises(DataError, match=reason) as caught:
            data.load_data()
        assert time.monotonic() - started < 9
        message = str(caught.value)
        assert len(message) < 2000
        assert not self.temporary_files()
        assert not self.kept_files()
        return message

    def temporary_files(self):
        """Return what is in the folder for temporary files."""
        return list((self.folder / "scratch").iterdir())

    def start_program(self, first=""):
        """Start another process that loads the made-up data as the scripts do and prints how many labels it has."""
        program = (
            f"{first}\n"
            "from pathlib import Path\n"
            "from lab.guard import errors, sources\n"
            "from lab.training import data\n"
            f"data.DIGESTS, sources.DOWNLOAD_URL = {data.DIGESTS!r}, {sources.DOWNLOAD_URL!r}\n"
            f"sources.SYSTEM_FOLDER, sources.SILENCE_SECONDS = Path({str(sources.SYSTEM_FOLDER)!r}), 30\n"
            "sources.shutil.which = lambda name: None\n"
            "errors.run_main(lambda: print(len(data.load_data()[0].labels)))"
        )
        return start("-c", program, TMPDIR=str(self.folder / "scratch"))


@pytest.fixture(name="client")
def make_client(archives, tmp_path, caplog):
    """Return a client of the made-up data."""
    return Client(tmp_path, caplog)


# the server


class Mirror:
    """An HTTPS server of a folder; requests for files whose names begin with `bad` are answered by `answer`."""

    def __init__(self, folder, context):
        self.folder, self.context, self.answer, self.bad = folder, context, send_file, ""
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                wire, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(wire,), daemon=True).start()

    def _talk(self, wire):
        with contextlib.suppress(OSError, IndexError), wire:  # the client may close at any moment
            wire = self.context.wrap_socket(wire, server_side=True) if self.context else wire
            with wire:
                name = wire.recv(1 << 16).split()[1].decode("latin-1").rpartition("/")[2]  # a request is sent at once
                answer = self.answer if name.startswith(self.bad) else send_file
                answer(wire, (self.folder / name).read_bytes())


@pytest.fixture(name="authority", scope="module")
def make_authority():
    """Return a certificate authority."""
    return trustme.CA()


@pytest.fixture(name="mirror")
def start_mirror(archives, authority, monkeypatch, tmp_path):
    """Start a mirror whose certificate the test trusts; it serves well until it is told otherwise."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    mirror = Mirror(archives, make_context(authority))
    monkeypatch.setattr(sources, "DOWNLOAD_URL", f"https://127.0.0.1:{mirror.port}/")
    yield mirror
    mirror.listener.close()


def make_context(authority):
    """Return the TLS context of a server whose certificate an authority has issued."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


# how a mirror answers


def format_response(body, *headers, status=b"200 OK"):
    """Return a whole HTTP response."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def format_half(content):
    """Return a response with the first half of its body."""
    return format_response(content)[: -len(content) // 2]


def send_file(wire, content):
    """Answer well."""
    wire.sendall(format_response(content))


def stall(wire, content):
    """Send nothing until the client closes the connection."""
    while wire.recv(1 << 16):
        pass


def send(response, then=lambda wire, content: None):
    """Return an answer that sends bytes, or what a function makes of the file, and then answers with `then`."""

    def answer(wire, content):
        wire.sendall(response(content) if callable(response) else response)
        then(wire, content)

    return answer


def send_endlessly(piece, pause=0.0):
    """Return an answer that sends a piece again and again, with a pause in seconds after each, for 10 s at most."""

    def answer(wire, content):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            wire.sendall(piece)
            time.sleep(pause)

    return answer
