"""The download from a real HTTPS server on this machine with every kind of fault that a mirror can have."""

import datetime
import gzip
import re
import signal
import time

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mirror import (  # noqa: F401 - fixtures
    CHUNKED,
    CONNECTED,
    HTML,
    NAMES,
    NO_LENGTH,
    format_chunked,
    format_half,
    format_response,
    format_without_length,
    make_archives,
    make_authority,
    make_client,
    make_context,
    make_start_proxy,
    redirect,
    reset,
    send,
    send_endlessly,
    send_file,
    send_status,
    stall,
    start_mirror,
)

from lab.guard import sources

# fault: [(the mirror's answer, a pattern of the error)]
FAULTS = {
    "stalls": [
        (stall, "timed out"),
        (send(b"HTTP/1.1 200 OK\r\nContent-Le", stall), "timed out"),
        (send(format_half, stall), "timed out"),
        (send(lambda content: format_chunked(content)[:-5], stall), "timed out"),
    ],
    "sends slowly without end": [
        (send(NO_LENGTH, send_endlessly(b"\x1f")), "not done after"),
        (send(CHUNKED + b"ff\r\n", send_endlessly(b"\x1f")), "not done after"),
    ],
    "resets or closes the connection": [
        (reset, "reset|closed"),
        (send(format_half, reset), "reset|cannot be read"),
        (send(b""), "closed connection"),
        (send(format_half), "cannot be read .*end-of-stream"),
        (send(lambda content: format_chunked(content)[:-9]), "IncompleteRead"),
        (send(lambda content: format_without_length(content)[:-9]), "cannot be read"),
    ],
    "sends too much": [
        (send(NO_LENGTH, send_endlessly(bytes(1 << 16), 0)), "sends more than it should"),
        (send(CHUNKED, send_endlessly(b"10000\r\n" + bytes(0x10000) + b"\r\n", 0)), "sends more than it should"),
        (send(b"HTTP/1.1 200 OK\r\nX: ", send_endlessly(b"x" * 9999, 0)), "more than 65536 bytes"),
        (send(b"HTTP/1.1 200 OK\r\n", send_endlessly(b"X: x\r\n", 0)), "more than 100 headers"),
    ],
    "answers with something else": [
        (send(format_response(HTML, b"Content-Type: text/html")), "SHA-256"),
        (send(b"HTTP/1.1 204 No Content\r\n\r\n"), "SHA-256"),
        (send(lambda content: format_response(gzip.compress(content))), "SHA-256"),
        (send(lambda content: format_response(gzip.compress(gzip.decompress(content)[:-1] + b"\x0a"))), "SHA-256"),
        (send(b"220 mail.example ESMTP\r\n"), "220 mail"),
    ],
    "answers with an error status": [
        (send_status(b"404 Not Found"), "HTTP Error 404: Not Found"),
        (send_status(b"407 Who?", b"Proxy-Authenticate: Basic"), "HTTP Error 407"),
        (send_status(b"503 "), "HTTP Error 503"),
        (send_status(b"500 \x1b[2Joops\x07"), r"HTTP Error 500: \[2Joops;"),
        (send_status(b"500 " + b"so " * 9999), "HTTP Error 500: so so"),
    ],
    "redirects to something other than https": [
        (redirect(b"http://127.0.0.1:PORT/x"), r"refused: redirects to http://127\.0\.0\.1:\d+/x, which is not https"),
        (redirect(b"HTTP://127.0.0.1:PORT/x", b"308 Permanent"), "not https"),
        (redirect(b"ftp://127.0.0.1:PORT/x"), "not https"),
        (redirect(b"file:///etc/passwd"), "not allowed"),
        (redirect(b"https://[::1/x"), "Invalid IPv6 URL|does not appear to be"),
        (redirect(b"https://" + b"a" * 70 + b".invalid/"), "label"),
    ],
    "redirects without end": [(redirect(b"/train-images-idx3-ubyte.gz"), "HTTP Error 302: .*infinite loop")],
}
CASES = [
    pytest.param(answer, reason, id=f"{fault}, {number}", marks=pytest.mark.fault("data", f"mirror that {fault}"))
    for fault, cases in FAULTS.items()
    for number, (answer, reason) in enumerate(cases, 1)
]


@pytest.mark.parametrize(("answer", "reason"), CASES)
def test_a_fault_is_one_line_and_the_next_source_serves(mirror, client, answer, reason):
    mirror.answer = answer
    message = client.assert_fails_cleanly(reason)
    assert f"{sources.DOWNLOAD_URL}: train-images-idx3-ubyte.gz: " in message
    assert mirror.connections < 12
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror that sends one bad file among good ones")
@pytest.mark.parametrize("bad", NAMES)
def test_one_bad_file_is_named_and_no_file_is_kept(mirror, client, bad):
    mirror.answer, mirror.bad = send(format_response(HTML)), bad
    assert f"{sources.DOWNLOAD_URL}: {bad}.gz: corrupt" in client.assert_fails_cleanly("SHA-256")
    client.assert_next_source_serves()


@pytest.mark.parametrize("content", [format_chunked, format_without_length])
def test_a_download_needs_no_content_length(mirror, client, content):
    mirror.answer = send(content)
    client.assert_loads_from(sources.DOWNLOAD_URL)


def test_redirects_to_https_are_followed(mirror, client):
    names = iter(NAMES)

    def answer(wire, content):
        address = f"https://127.0.0.1:{mirror.port}/moved/{next(names)}.gz"
        wire.sendall(b"HTTP/1.1 302 Found\r\nLocation: " + address.encode() + b"\r\n\r\n")
        send_endlessly(b"x")(wire, content)  # a page without end, which must not be read

    mirror.answer = answer
    client.assert_loads_from(sources.DOWNLOAD_URL)
    assert mirror.connections == 8


@pytest.mark.fault("data", "mirror that answers with any bytes")
def test_any_answer_is_one_line(mirror, client, soak, count_cases):
    lines = [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.0 302 Found", b"HTTP/1.1 308 Moved", b"HTTP/9 \xff", b"HTTP/1.1 100 Continue"),
        *(b"Content-Length: 9", b"Content-Length: -1", b"Content-Length: \xb2", b"Transfer-Encoding: chunked"),
        *(b"Location: https://[", b"Location: https://@:/", b"Location: //", b"Location: \xff", b"URI: ?"),
        *(b"Location:", b"", b"5", b"-5", b"fffffffffffffffff", b"\x1f\x8b\x08\x00", b" folded", b"\x00: \x00"),
    ]
    answers = st.lists(st.sampled_from(lines) | st.binary(max_size=9), max_size=9).map(b"\r\n".join)
    relaxed = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
    tried = []

    @settings(max_examples=2000 if soak else 100, derandomize=not soak, **relaxed)
    @given(answers, st.booleans())
    def check(answer, status_line_first):
        tried.append(answer)
        mirror.answer = send(lines[len(tried) % 3] + b"\r\n" + answer if status_line_first else answer)
        client.assert_fails_cleanly(sources.DOWNLOAD_URL)

    check()
    count_cases(len(tried))


def issue_untrusted(kind, authority):
    """Return the TLS context of a server whose certificate a client should not trust."""
    if kind == "another authority":
        return make_context(trustme.CA().issue_cert("127.0.0.1"))
    if kind == "another name":
        return make_context(authority.issue_cert("mirror.example"))
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return make_context(authority.issue_cert("127.0.0.1", not_after=yesterday))


@pytest.mark.fault("data", "mirror with an untrusted certificate")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("another authority", "unable to get local issuer|self.signed"),
        ("another name", "IP address mismatch"),
        ("expired", "expired"),
    ],
)
def test_an_untrusted_certificate_is_refused(mirror, client, authority, kind, reason):
    requests = []
    mirror.context = issue_untrusted(kind, authority)
    mirror.serve = requests.append
    assert "set SSL_CERT_FILE" in client.assert_fails_cleanly(f"CERTIFICATE_VERIFY_FAILED.*({reason})")
    client.assert_next_source_serves()
    assert not requests


@pytest.mark.fault("data", "mirror without TLS, or with an incomplete handshake")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (stall, "handshake .*timed out"),
        (send(b"\x16\x03\x03\x40\x00", send_endlessly(b"x")), "handshake .*timed out|SSL"),
        (send(b""), "EOF|eof|reset"),
        (send(format_response(HTML)), "SSL"),
    ],
    ids=["stalls", "slow without end", "closes", "plain http"],
)
def test_an_incomplete_handshake_is_one_line(mirror, client, answer, reason):
    mirror.context, mirror.serve = None, lambda wire: answer(wire, None)
    client.assert_fails_cleanly(reason)
    client.assert_next_source_serves()


@pytest.mark.fault("data", "proxy that refuses or hangs; malformed address of a proxy")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (stall, "timed out"),
        (send(CONNECTED, stall), "handshake .*timed out"),
        (send(b"HTTP/1.0 407 Who?\r\n\r\n"), "Tunnel connection failed: 407 Who"),
        (send(b"SSH-2.0-x\r\n"), "SSH-2.0"),
        (send(b""), "closed|reset"),
        ("http://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:x", "nonnumeric port"),
        ("http://[", "Invalid IPv6|idna|not known|Name or service|label"),
    ],
    ids=["stalls", "stalls later", "407", "another protocol", "closes", "no proxy", "no port", "no host"],
)
def test_a_bad_proxy_is_one_line(mirror, client, start_proxy, monkeypatch, answer, reason):
    if isinstance(answer, str):
        monkeypatch.setenv("https_proxy", answer)
    else:
        start_proxy(answer)
    client.assert_fails_cleanly(reason)
    client.assert_next_source_serves()
    assert not mirror.connections


DISK_FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"


@pytest.mark.fault("data", "mirror with a fault, or a full disk, met by a program")
@pytest.mark.parametrize(
    ("answer", "first", "code", "last"),
    [
        (send_file, "", 0, r"data: https://127\.0\.0\.1:\d+/"),
        (send(format_response(HTML)), "", 1, "error: fashion-mnist was not found: .*corrupt"),
        (redirect(b"http://127.0.0.1:PORT/"), "", 1, "error: .*not https"),
        (send_file, DISK_FULL, 1, r"error: .*train-images-idx3-ubyte.gz: .*File too large"),
    ],
    ids=["no fault", "page", "http", "disk full"],
)
def test_a_program_ends_with_one_line(mirror, client, answer, first, code, last):
    mirror.answer = answer
    stdout, stderr = (process := client.start_program(first)).communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "" if code else "300\n")
    *notes, final = stderr.splitlines()
    assert all(line.startswith("fetching fashion-mnist") for line in notes)
    assert re.match(last, final)
    assert not client.temporary_files()


@pytest.mark.fault("data", "stalled download that a signal ends")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_download_ended_by_a_signal_leaves_nothing(mirror, client, tmp_path, number, code):
    mirror.answer = send(format_half, stall)
    process = client.start_program()
    while not mirror.connections:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert not client.temporary_files()
    assert not (tmp_path / "home").exists()
