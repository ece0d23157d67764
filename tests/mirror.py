"""Made-up data sets, and a real HTTPS server on this machine that serves them, well or badly.

The fixtures are made for `from mirror import make_archives, ...`. The answers of a mirror are functions of its
connection and of the file that was requested.
"""

import contextlib
import gzip
import hashlib
import logging
import socket
import ssl
import struct
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
SILENCE, WHOLE = 0.15, 0.4  # seconds that a download waits for a byte or for a file, in the tests of these limits
HTML = b"<!DOCTYPE html><html><title>Log in to the network</title></html>"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_LENGTH = b"HTTP/1.0 200 OK\r\n\r\n"
CONNECTED = b"HTTP/1.0 200 Connection established\r\n\r\n"


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
    path.parent.mkdir(parents=True, exist_ok=True)
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

    def __init__(self, archives, folder, caplog):
        self.archives, self.folder, self.caplog = archives, folder, caplog
        self.cache = folder / "home" / "datasets"

    def load(self, name="fashion-mnist", folder=None):
        """Load the data; return the source that the log names."""
        sources.note.cache_clear()
        logged = len(self.caplog.messages)
        with self.caplog.at_level(logging.INFO, sources.logger.name):
            train, test = data.load_data(data.DataSet(name, folder))
        assert (len(train.images), len(train.labels), len(test.images), len(test.labels)) == (300, 300, 200, 200)
        (line,) = (line for line in self.caplog.messages[logged:] if line.startswith("data: "))
        return line.removeprefix("data: ")

    def assert_loads_from(self, source):
        """Load from this source; check that this is soon done, and that the cache has all files and nothing else."""
        started = time.monotonic()
        assert self.load() == source
        assert time.monotonic() - started < 5
        self.assert_cache_is_whole()

    def assert_cache_is_whole(self):
        """Check that Keras' cache has the four files of Fashion-MNIST, and that there is no other trace."""
        assert not self.temporary_files()
        assert sorted(path.name for path in self.folder.glob("home/**/*.*")) == sorted(f"{name}.gz" for name in NAMES)

    def assert_fails_cleanly(self, reason):
        """Load; check that it fails soon, with one line that gives the reason, and leaves no file; return the line."""
        started = time.monotonic()
        with pytest.MonkeyPatch.context() as limits:
            # only the limit that is tested: on a busy machine, a slow answer may pause for long
            if "timed out" in reason:
                limits.setattr(sources, "SILENCE_SECONDS", SILENCE)
            if "not done" in reason:
                limits.setattr(sources, "DOWNLOAD_SECONDS", WHOLE)
            with pytest.raises(DataError, match=reason) as caught:
                data.load_data()
        assert time.monotonic() - started < 5
        message = str(caught.value)
        assert message.isprintable()
        assert len(message) < 2000
        assert not self.temporary_files()
        assert not list(self.folder.glob("home/**/*.gz"))
        return message

    def assert_next_source_serves(self):
        """Load while the mirror still has its fault and the source after it is good."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "SILENCE_SECONDS", SILENCE)
            patch.setattr(sources, "DOWNLOAD_SECONDS", WHOLE)
            patch.setattr(sources, "_unpack_package", lambda folder, names: self.archives)
            self.assert_loads_from(f"package {sources.DEBIAN_PACKAGE}")

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
    return Client(archives, tmp_path, caplog)


# servers


class Server:
    """A server on one port of the loopback interface; a function serves each connection in a thread of its own."""

    def __init__(self, serve, context=None):
        self.serve, self.context = serve, context
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
        # the client may close at any moment, as its time limits demand
        with contextlib.suppress(OSError), contextlib.ExitStack() as closed:
            wire = closed.enter_context(wire)
            if self.context:
                wire = closed.enter_context(self.context.wrap_socket(wire, server_side=True))
            self.serve(wire)


class Mirror(Server):
    """An HTTPS server of a folder; requests for files whose names begin with `bad` are answered by `answer`."""

    def __init__(self, folder, context):
        super().__init__(self._serve_request, context)
        self.folder, self.answer, self.bad = folder, send_file, ""

    def _serve_request(self, wire):
        address = read_head(wire).split()[1].decode()
        name = address.rpartition("/")[2]
        answer = self.answer if name.startswith(self.bad) and "/moved/" not in address else send_file
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
    mirror = Mirror(archives, make_context(authority.issue_cert("127.0.0.1")))
    monkeypatch.setattr(sources, "DOWNLOAD_URL", f"https://127.0.0.1:{mirror.port}/")
    yield mirror
    mirror.listener.close()


@pytest.fixture(name="start_proxy")
def make_start_proxy(monkeypatch):
    """Return a function that starts a server which the download uses as its proxy."""
    with contextlib.ExitStack() as closed:

        def start_proxy(serve):
            proxy = Server(lambda wire: serve(wire, None))
            closed.enter_context(proxy.listener)
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            return proxy

        yield start_proxy


def make_context(certificate):
    """Return the TLS context of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def read_head(wire):
    """Return the request line and headers of a request."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = wire.recv(1)
        if not byte:
            raise ConnectionError("closed")
        head += byte
    return head


# what a mirror sends


def format_response(body, *headers, status=b"200 OK", length=None):
    """Return a whole HTTP response."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % (len(body) if length is None else length), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def format_half(content):
    """Return a response with the first half of its body."""
    return format_response(content)[: -len(content) // 2]


def format_chunked(content):
    """Return a whole chunked response."""
    return CHUNKED + b"%x\r\n" % len(content) + content + b"\r\n0\r\n\r\n"


def format_without_length(content):
    """Return a response that ends where the connection ends."""
    return NO_LENGTH + content


# how a mirror answers


def send_file(wire, content):
    """Answer well."""
    wire.sendall(format_response(content))


def stall(wire, content):
    """Send nothing until the client closes the connection."""
    while wire.recv(1 << 16):
        pass


def reset(wire, content):
    """Reset the connection."""
    time.sleep(0.05)  # the client never sees what it has not read before the reset
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def send(response, then=lambda wire, content: None):
    """Return an answer that sends bytes, or what a function makes of the file, and then answers with `then`."""

    def answer(wire, content):
        wire.sendall(response(content) if callable(response) else response)
        then(wire, content)

    return answer


def send_endlessly(piece, pause=0.02):
    """Return an answer that sends a piece again and again, with a pause in seconds after each.

    It ends after 10 s or 100 MB, so that a test of a client that does not close the connection fails instead of hangs.
    """

    def answer(wire, content):
        deadline, pieces = time.monotonic() + 10, 100_000_000 // len(piece)
        while pieces and time.monotonic() < deadline:
            wire.sendall(piece)
            time.sleep(pause)
            pieces -= 1

    return answer


def send_status(line, *headers):
    """Return an answer with a status line."""
    return send(format_response(HTML, *headers, status=line))


def redirect(address, code=b"302 Found"):
    """Return an answer that redirects; PORT in the address is replaced by the mirror's own."""

    def answer(wire, content):
        location = address.replace(b"PORT", b"%d" % wire.getsockname()[1])
        wire.sendall(format_response(HTML, b"Location: " + location, status=code))

    return answer
