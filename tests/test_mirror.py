"""The download against a real HTTPS server on this machine, which does everything that a mirror should not."""

import contextlib
import datetime
import gzip
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import trustme
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_data import write_split

from lab import data
from lab.data import DataError

SILENCE, WHOLE = 0.15, 0.4  # seconds that the download waits for a byte or for a file, where the test is of that
HTML = b"<!DOCTYPE html><html><title>Log in to the network</title></html>"


class Server:
    """A server of one port of the loopback; each connection is given to a function in a thread of its own."""

    def __init__(self, serve, context=None):
        self.serve, self.context = serve, context
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # it is closed
            while True:
                wire, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(wire,), daemon=True).start()

    def _talk(self, wire):
        # the client may go at any moment: that is what its time limits are for
        with contextlib.suppress(OSError), contextlib.ExitStack() as closed:
            wire = closed.enter_context(wire)
            if self.context:
                wire = closed.enter_context(self.context.wrap_socket(wire, server_side=True))
            self.serve(wire)


class Mirror(Server):
    """An HTTPS server of a folder; requests of archives whose names begin with `bad` are answered by `answer`."""

    def __init__(self, folder, context):
        super().__init__(self._serve_request, context)
        self.folder, self.answer, self.bad = folder, well, ""

    def _serve_request(self, wire):
        address = read_head(wire).split()[1].decode()
        name = address.rpartition("/")[2]
        answer = self.answer if name.startswith(self.bad) and "/moved/" not in address else well
        answer(wire, (self.folder / name).read_bytes())


def read_head(wire):
    """Return the lines that a request begins with."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = wire.recv(1)
        if not byte:
            raise ConnectionError("gone")
        head += byte
    return head


def response(body, *headers, status=b"200 OK", length=None):
    """Return a whole HTTP response."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % (len(body) if length is None else length), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def well(wire, archive):
    wire.sendall(response(archive))


def silence(wire, archive=None):
    while wire.recv(1 << 16):  # until the client has gone
        pass


def sends(content, then=lambda wire, archive: None):
    """Return an answer that sends these bytes, or what a function makes of the archive; `then` may go on."""

    def answer(wire, archive):
        wire.sendall(content(archive) if callable(content) else content)
        then(wire, archive)

    return answer


def drips(piece, pause=0.02):
    """Return an answer that sends a piece again and again, for ever."""

    def answer(wire, archive):
        while True:
            wire.sendall(piece)
            time.sleep(pause)

    return answer


def reset(wire, archive):
    time.sleep(0.05)  # what was sent before is lost where it has not been read
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def status(line, *headers):
    return sends(response(HTML, *headers, status=line))


def redirect(address, code=b"302 Found"):
    """Return an answer that redirects; PORT in the address stands for the mirror's own."""

    def answer(wire, archive):
        location = address.replace(b"PORT", b"%d" % wire.getsockname()[1])
        wire.sendall(response(HTML, b"Location: " + location, status=code))

    return answer


def head(archive):
    return response(b"", length=len(archive))


def half(archive):
    return response(archive)[: -len(archive) // 2]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNMEASURED = b"HTTP/1.0 200 OK\r\n\r\n"


def chunk(archive):
    return CHUNKED + b"%x\r\n" % len(archive) + archive + b"\r\n"


def chunk_and_end(archive):
    return chunk(archive) + b"0\r\n\r\n"


# fault: case: (what the mirror answers, which words of the error tell of it)
FAULTS = {
    "falls silent": {
        "before a word": (silence, "timed out"),
        "in its status line": (sends(b"HTTP/1.1 20", silence), "timed out"),
        "in its headers": (sends(b"HTTP/1.1 200 OK\r\nContent-Le", silence), "timed out"),
        "after its headers": (sends(head, silence), "timed out"),
        "in the archive": (sends(half, silence), "timed out"),
        "in a chunk": (sends(lambda archive: chunk(archive)[:-9], silence), "timed out"),
        "after the last chunk": (sends(chunk, silence), "timed out"),
        "after all of an archive of no given length": (
            sends(lambda archive: UNMEASURED + archive, silence),
            "timed out",
        ),
    },
    "drips for ever": {
        "the archive": (sends(head, drips(b"\x1f")), "not done after"),
        "a chunk": (sends(CHUNKED + b"ff\r\n", drips(b"\x1f")), "not done after"),
    },
    "resets or closes the connection": {
        "reset before a word": (reset, "reset|closed"),
        "reset after the headers": (sends(head, reset), "reset|cut off"),
        "reset in the archive": (sends(half, reset), "reset|cut off"),
        "closed before a word": (sends(b""), "closed connection"),
        "closed in the archive": (sends(half), r"cut off, \d+ bytes before its end"),
        "closed before a chunk": (sends(CHUNKED), "IncompleteRead"),
        "closed in a chunk": (sends(lambda archive: chunk(archive)[:-9]), "IncompleteRead"),
        "closed in an archive of no given length": (
            sends(lambda archive: UNMEASURED + archive[:-9]),
            "damaged .*end-of-stream",
        ),
        "too small a length": (sends(lambda archive: response(archive, length=len(archive) - 9)), "damaged"),
    },
    "sends too much": {
        "without end": (sends(UNMEASURED, drips(bytes(1 << 16), 0)), "sends more than it should"),
        "as announced": (sends(lambda archive: response(bytes(1 << 20))), "sends more than it should"),
        "in chunks": (sends(CHUNKED, drips(b"1000\r\n" + bytes(0x1000) + b"\r\n", 0)), "sends more than it should"),
        "a header without end": (sends(b"HTTP/1.1 200 OK\r\nX: ", drips(b"x" * 9999, 0)), "more than 65536 bytes"),
        "headers without end": (sends(b"HTTP/1.1 200 OK\r\n", drips(b"X: x\r\n", 0)), "more than 100 headers"),
    },
    "answers with something else": {
        "a log-in page": (sends(response(HTML, b"Content-Type: text/html")), "damaged .*[Nn]ot a gzip"),
        "nothing": (sends(response(b"")), "damaged"),
        "no content": (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), "damaged"),
        "a part": (sends(lambda archive: response(archive[:50], status=b"206 Partial Content")), "damaged"),
        "the archive within another": (
            sends(lambda archive: response(gzip.compress(archive))),
            "damaged",
        ),
        "other pixels": (
            sends(lambda archive: response(gzip.compress(gzip.decompress(archive)[:-1] + b"\x09"))),
            "SHA-256",
        ),
        "the archive and a byte": (sends(lambda archive: response(archive + b"x")), "damaged"),
        "no HTTP": (sends(b"220 mail.example ESMTP\r\n"), "220 mail"),
        "chunks of nonsense": (sends(CHUNKED + b"zz\r\n" + bytes(99)), "IncompleteRead"),
        "chunks of less than nothing": (sends(CHUNKED + b"-5\r\n" + bytes(99)), "damaged|IncompleteRead"),
    },
    "answers an error status": {
        "404": (status(b"404 Not Found"), "HTTP Error 404: Not Found"),
        "403": (status(b"403 Forbidden"), "HTTP Error 403"),
        "401": (status(b"401 Who?", b"WWW-Authenticate: Basic"), "HTTP Error 401"),
        "407": (status(b"407 Who?", b"Proxy-Authenticate: Basic"), "HTTP Error 407"),
        "500": (status(b"500 Internal Server Error"), "HTTP Error 500"),
        "503": (status(b"503 Service Unavailable", b"Retry-After: 3600"), "HTTP Error 503"),
        "503 without a word": (status(b"503 "), "HTTP Error 503"),
        "a number that is none": (status(b"000 ?"), "000"),
        "signs that a terminal obeys": (status(b"500 \x1b[2Joops\x07"), r"HTTP Error 500: \[2Joops;"),
        "a long speech": (status(b"500 " + b"so " * 9999), "HTTP Error 500: so so"),
    },
    "redirects to what is not https": {
        "http": (redirect(b"http://127.0.0.1:PORT/x"), r"refused: redirects to http://127\.0\.0\.1:\d+/x, which is"),
        "HTTP": (redirect(b"HTTP://127.0.0.1:PORT/x", b"301 Moved"), "not https"),
        "http, 307": (redirect(b"http://127.0.0.1:PORT/x", b"307 Temporary"), "not https"),
        # Python 3.10 knows no such redirect
        "http, 308": (redirect(b"http://127.0.0.1:PORT/x", b"308 Permanent"), "not https|HTTP Error 308"),
        "ftp": (redirect(b"ftp://127.0.0.1:PORT/x"), "not https"),
        "file": (redirect(b"file:///etc/passwd"), "not allowed"),
        "data": (redirect(b"data:,x"), "not allowed"),
        "nowhere": (status(b"302 Found"), "HTTP Error 302"),
        "a broken address": (redirect(b"https://[::1/x"), "no address that can be read"),
        "a port that is none": (redirect(b"https://127.0.0.1:x/"), "nonnumeric port"),
        "too long a name": (redirect(b"https://" + b"a" * 70 + b".invalid/"), "no address that can be read"),
    },
}
CASES = [
    pytest.param(answer, reason, id=f"{fault}: {case}", marks=pytest.mark.fault("data", f"mirror that {fault}"))
    for fault, cases in FAULTS.items()
    for case, (answer, reason) in cases.items()
]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def context_of(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def package(monkeypatch, tmp_path):
    """Make up the data in a folder that no source knows of; return the folder."""
    folder, files = tmp_path / "package", {}
    for split, n in (("train", 300), ("test", 200)):
        files |= write_split(folder, np.full((n, 28, 28), n), np.arange(n) % 10, split)
    monkeypatch.setattr(data, "FILES", files)
    monkeypatch.setattr(data.read_splits, "__defaults__", (("train", "test"), files))
    monkeypatch.setattr(data, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    for name in ("FASHION_MNIST_DIR", *(f"{kind}_proxy" for kind in ("http", "https", "all", "no"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return folder


@pytest.fixture
def mirror(package, authority, monkeypatch, tmp_path):
    """Run a mirror with a certificate that is trusted for the test; it answers well until it is told otherwise."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    mirror = Mirror(package, context_of(authority.issue_cert("127.0.0.1")))
    monkeypatch.setattr(data, "DOWNLOAD_URL", f"https://127.0.0.1:{mirror.port}/")
    yield mirror
    mirror.listener.close()


def assert_failed_cleanly(tmp_path, reason):
    """Load, and see one line that says why not, in time, and that no file is left behind; return the line."""
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as limits:
        # only the limit that is meant: on a busy machine, a drip may pause for long
        if "timed out" in reason:
            limits.setattr(data, "SILENCE_SECONDS", SILENCE)
        if "not done" in reason:
            limits.setattr(data, "DOWNLOAD_SECONDS", WHOLE)
        with pytest.raises(DataError, match=reason) as caught:
            data.load_splits()
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    assert not list((tmp_path / "scratch").iterdir())
    assert not list(tmp_path.glob("home/**/*.gz"))
    return message


def assert_loaded(source, tmp_path):
    """Load from this source, and see that the cache has all of it, and nothing else."""
    train, test = data.load_splits()
    assert (len(train.labels), len(test.labels), train.source) == (300, 200, source)
    assert not list((tmp_path / "scratch").iterdir())
    kept = (tmp_path / "home" / "datasets" / "fashion-mnist").iterdir()
    assert sorted(path.name for path in kept) == sorted(f"{name}.gz" for row in data.FILES.values() for name, *_ in row)


def serve_next_source(package, tmp_path):
    """Load, with a good source behind the mirror that still has its fault."""
    with pytest.MonkeyPatch.context() as later:
        later.setattr(data, "SILENCE_SECONDS", SILENCE)
        later.setattr(data, "DOWNLOAD_SECONDS", WHOLE)
        later.setattr(data, "_unpack_package", lambda folder, names: package)
        assert_loaded(f"package {data.DEBIAN_PACKAGE}", tmp_path)


def test_what_a_good_mirror_sends_is_verified_kept_and_not_fetched_again(mirror, tmp_path):
    assert_loaded(data.DOWNLOAD_URL, tmp_path)
    assert_loaded(str(data.keras_cache()), tmp_path)
    assert mirror.connections == 4


@pytest.mark.parametrize("content", [chunk_and_end, lambda archive: UNMEASURED + archive])
def test_any_honest_way_to_send_an_archive_serves(mirror, tmp_path, content):
    mirror.answer = sends(content)
    assert_loaded(data.DOWNLOAD_URL, tmp_path)


@pytest.mark.parametrize(("answer", "reason"), CASES)
def test_a_fault_is_one_line_leaves_nothing_and_the_next_source_serves(mirror, package, tmp_path, answer, reason):
    mirror.answer = answer
    message = assert_failed_cleanly(tmp_path, reason)
    assert f"{data.DOWNLOAD_URL}: train-images-idx3-ubyte.gz: " in message
    assert mirror.connections == (4 if "damaged" in message else 1)  # damage is seen when all are there
    serve_next_source(package, tmp_path)


@pytest.mark.fault("data", "mirror that sends one bad archive among good ones")
@pytest.mark.parametrize("content", [response(HTML), half], ids=["page", "half"])
@pytest.mark.parametrize("bad", [name for row in data.FILES.values() for name, *_ in row])
def test_one_bad_archive_among_good_ones_is_named_and_none_is_kept(mirror, package, tmp_path, bad, content):
    mirror.answer, mirror.bad = sends(content), bad
    assert f"{data.DOWNLOAD_URL}: {bad}.gz: " in assert_failed_cleanly(tmp_path, "damaged|cut off")
    serve_next_source(package, tmp_path)


@pytest.mark.fault("data", "mirror that closes the connection after any byte")
def test_closing_after_any_byte_is_never_taken_for_the_end(mirror, package, tmp_path, soak, count_cases):
    mirror.bad = "train-images"
    whole = response((package / f"{mirror.bad}-idx3-ubyte.gz").read_bytes())
    kept = range(0, len(whole), 1 if soak else 5)
    for n in kept:
        mirror.answer = sends(whole[:n])
        assert_failed_cleanly(tmp_path, mirror.bad)
    mirror.answer = sends(whole)
    assert_loaded(data.DOWNLOAD_URL, tmp_path)
    count_cases(len(kept))


@pytest.mark.fault("data", "mirror that answers with any bytes")
def test_any_answer_at_all_is_one_line(mirror, tmp_path, soak, count_cases):
    lines = [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.0 302 Found", b"HTTP/1.1 308 Moved", b"HTTP/9 \xff", b"HTTP/1.1 100 Continue"),
        *(b"Content-Length: 9", b"Content-Length: -1", b"Content-Length: \xb2", b"Transfer-Encoding: chunked"),
        *(
            b"Location: https://[",
            b"Location: https://@:/",
            b"Location: //",
            b"Location: \xff",
            b"URI: ?",
            b"Location:",
        ),
        *(b"", b"5", b"-5", b"fffffffffffffffff", b"\x1f\x8b\x08\x00", b" folded", b"\x00: \x00", b"Connection: x"),
    ]
    answers = st.binary(max_size=200) | st.lists(st.sampled_from(lines) | st.binary(max_size=9), max_size=9).map(
        b"\r\n".join
    )
    tried = []

    @settings(
        max_examples=2000 if soak else 100,
        deadline=None,
        database=None,
        derandomize=not soak,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(answers, st.booleans())
    def one_line(answer, status_line_first):
        tried.append(answer)
        mirror.answer = sends(lines[len(tried) % 3] + b"\r\n" + answer if status_line_first else answer)
        assert_failed_cleanly(tmp_path, data.DOWNLOAD_URL)

    one_line()
    count_cases(len(tried))


@pytest.mark.parametrize("location", [b"https://127.0.0.1:PORT/moved/%s", b"/moved/%s", b"moved/%s"])
def test_redirects_to_https_are_followed(mirror, tmp_path, location):
    names = (f"{name}.gz".encode() for row in data.FILES.values() for name, *_ in row)

    def answer(wire, archive):
        address = (location % next(names)).replace(b"PORT", b"%d" % mirror.port)
        wire.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + address + b"\r\n\r\n")
        drips(b"x")(wire, archive)  # a page without end, which nobody is to read

    mirror.answer = answer
    assert_loaded(data.DOWNLOAD_URL, tmp_path)
    assert mirror.connections == 8


@pytest.mark.fault("data", "mirror that redirects for ever")
@pytest.mark.parametrize("location", [b"/train-images-idx3-ubyte.gz", b"/%d/train-images-idx3-ubyte.gz"])
def test_redirects_have_an_end(mirror, package, tmp_path, location):
    mirror.answer = lambda wire, archive: redirect(location.replace(b"%d", b"%d" % mirror.connections))(wire, archive)
    assert_failed_cleanly(tmp_path, "HTTP Error 302: .*infinite loop")
    assert mirror.connections < 12
    serve_next_source(package, tmp_path)


@pytest.mark.fault("data", "mirror that redirects to what is not https")
def test_a_redirect_to_http_behind_one_to_https_is_refused(mirror, package, tmp_path):
    locations = iter((b"/1/train-images-idx3-ubyte.gz", b"http://127.0.0.1:PORT/2") * 2)
    mirror.answer = lambda wire, archive: redirect(next(locations))(wire, archive)
    assert_failed_cleanly(tmp_path, "refused: redirects to http://.*/2, which is not https")
    assert mirror.connections == 2
    serve_next_source(package, tmp_path)


def certificate(kind, authority):
    """Return the context of a server whose certificate a client should not trust."""
    if kind == "another authority":
        return context_of(trustme.CA().issue_cert("127.0.0.1"))
    if kind == "another name":
        return context_of(authority.issue_cert("mirror.example"))
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    return context_of(authority.issue_cert("127.0.0.1", not_after=yesterday))


@pytest.mark.fault("data", "mirror that is not to be trusted")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("another authority", "CERTIFICATE_VERIFY_FAILED.*unable to get local issuer|self.signed"),
        ("another name", "CERTIFICATE_VERIFY_FAILED.*IP address mismatch"),
        ("expired", "CERTIFICATE_VERIFY_FAILED.*expired"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_refused(mirror, package, authority, tmp_path, kind, reason):
    mirror.context = certificate(kind, authority)
    mirror.serve = lambda wire: pytest.fail("a request was sent")
    assert_failed_cleanly(tmp_path, reason)
    serve_next_source(package, tmp_path)


RECORD = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"  # the head of a TLS record of 16 KiB, a server's hello


@pytest.mark.fault("data", "mirror that speaks no TLS, or not to its end")
@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (silence, "handshake .*timed out"),
        (sends(RECORD, silence), "handshake .*timed out"),
        (sends(RECORD, drips(b"x")), "handshake .*timed out"),
        (sends(RECORD), "EOF|eof|reset"),
        (sends(b""), "EOF|eof|reset"),
        (reset, "reset|EOF|eof"),
        (sends(response(HTML)), "SSL"),
        (sends(bytes(99)), "SSL"),
    ],
    ids=["silent", "half, then silent", "drips", "half", "closes", "resets", "plain http", "zeros"],
)
def test_without_a_handshake_there_is_no_download(mirror, package, tmp_path, serve, reason):
    mirror.context, mirror.serve = None, lambda wire: serve(wire, None)
    assert_failed_cleanly(tmp_path, reason)
    serve_next_source(package, tmp_path)


CONNECTED = b"HTTP/1.0 200 Connection established\r\n\r\n"


def tunnel(wire, archive=None):
    """Serve as an honest proxy."""
    host, _, port = read_head(wire).split()[1].partition(b":")
    with socket.create_connection((host, int(port))) as mirror:
        wire.sendall(CONNECTED)
        threading.Thread(target=forward, args=(mirror, wire), daemon=True).start()
        forward(wire, mirror)


def forward(source, target):
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


def test_an_honest_proxy_serves(mirror, tmp_path, monkeypatch):
    proxy = Server(tunnel)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    assert_loaded(data.DOWNLOAD_URL, tmp_path)
    assert (proxy.connections, mirror.connections) == (4, 4)
    proxy.listener.close()


@pytest.mark.fault("data", "proxy that refuses, hangs or is none")
@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        pytest.param(silence, "timed out", id="silent"),
        pytest.param(sends(b"HTTP/1.0 200 Conn", silence), "timed out", id="silent in its answer"),
        pytest.param(sends(CONNECTED, silence), "handshake .*timed out", id="silent behind it"),
        pytest.param(sends(b"HTTP/1.0 407 Who?\r\n\r\n"), "Tunnel connection failed: 407 Who", id="407"),
        pytest.param(sends(b"HTTP/1.0 503 \x1b[2J\r\n\r\n"), "Tunnel connection failed: 503", id="503"),
        pytest.param(sends(response(HTML)), "SSL|pipe|reset|EOF", id="page"),
        pytest.param(sends(b"SSH-2.0-x\r\n"), "SSH-2.0", id="no proxy"),
        pytest.param(sends(b""), "closed|reset", id="closes"),
        pytest.param(reset, "reset|closed", id="resets"),
    ],
)
def test_a_bad_proxy_is_one_line(mirror, package, tmp_path, monkeypatch, serve, reason):
    proxy = Server(lambda wire: serve(wire, None))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    assert_failed_cleanly(tmp_path, reason)
    serve_next_source(package, tmp_path)
    proxy.listener.close()
    assert not mirror.connections


@pytest.mark.fault("data", "proxy that refuses, hangs or is none")
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:x", "nonnumeric port"),
        ("http://", "no host|no address"),
        ("http://[", "no address|not known|Name or service"),
        (f"http://{'a' * 70}.invalid:1", "no address"),
        ("socks5://127.0.0.1:1", "unknown url type|refused"),
    ],
)
def test_a_proxy_that_is_none_is_one_line(mirror, package, tmp_path, monkeypatch, address, reason):
    monkeypatch.setenv("https_proxy", address)
    assert_failed_cleanly(tmp_path, reason)
    serve_next_source(package, tmp_path)
    assert not mirror.connections


def start_program(tmp_path):
    """Start a program of its own that loads the made-up data as the scripts do."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from lab import cli, data\n"
        f"data.FILES, data.DOWNLOAD_URL = {data.FILES!r}, {data.DOWNLOAD_URL!r}\n"
        "data.SYSTEM_FOLDER, data.SILENCE_SECONDS = Path('nowhere'), 30\n"
        "data.read_splits.__defaults__ = (('train', 'test'), data.FILES)\n"
        "data.shutil.which = lambda name: None\n"
        "cli.run(lambda: print(len(data.load_splits()[0].labels)))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path / "scratch")},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # what runs in a shell's background is born deaf to SIGINT, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.fault("data", "mirror that a program of its own meets")
@pytest.mark.parametrize(
    ("answer", "code", "last"),
    [
        (well, 0, r"data: https://127\.0\.0\.1:\d+/"),
        (sends(response(HTML)), 1, "error: Fashion-MNIST was not found: .*damaged"),
        (sends(half), 1, "error: .*cut off"),
        (redirect(b"http://127.0.0.1:PORT/"), 1, "error: .*not https"),
    ],
    ids=["well", "page", "half", "http"],
)
def test_a_program_ends_with_one_line(mirror, tmp_path, answer, code, last):
    mirror.answer = answer
    process = start_program(tmp_path)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "" if code else "300\n")
    *notes, final = stderr.splitlines()
    assert all(note.startswith("fetching Fashion-MNIST") for note in notes)
    assert re.match(last, final)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.fault("data", "user who interrupts a download that has fallen silent")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_leaves_nothing(mirror, tmp_path, number, code):
    mirror.answer = sends(half, silence)
    process = start_program(tmp_path)
    while not mirror.connections:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert not list((tmp_path / "scratch").iterdir())
    assert not (tmp_path / "home").exists()
