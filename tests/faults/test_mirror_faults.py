"""The download from a real HTTPS server on this machine with every fault that a mirror can have."""

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
    NO_LENGTH,
    format_chunk,
    format_half,
    format_headers,
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
    send_archive,
    send_endlessly,
    send_status,
    stall,
    start_mirror,
)

from lab.data import FILES
from lab.plumbing import sources

# fault: case: (the mirror's answer, a pattern of the error)
FAULTS = {
    "stalls": {
        "before its status line": (stall, "timed out"),
        "in its status line": (send(b"HTTP/1.1 20", stall), "timed out"),
        "in its headers": (send(b"HTTP/1.1 200 OK\r\nContent-Le", stall), "timed out"),
        "after its headers": (send(format_headers, stall), "timed out"),
        "in the archive": (send(format_half, stall), "timed out"),
        "in a chunk": (send(lambda archive: format_chunk(archive)[:-9], stall), "timed out"),
        "after the last chunk": (send(format_chunk, stall), "timed out"),
        "after all of an archive without a length": (send(format_without_length, stall), "timed out"),
    },
    "sends slowly without end": {
        "the archive": (send(format_headers, send_endlessly(b"\x1f")), "not done after"),
        "a chunk": (send(CHUNKED + b"ff\r\n", send_endlessly(b"\x1f")), "not done after"),
    },
    "resets or closes the connection": {
        "reset before its status line": (reset, "reset|closed"),
        "reset after its headers": (send(format_headers, reset), "reset|truncated"),
        "reset in the archive": (send(format_half, reset), "reset|truncated"),
        "closed before its status line": (send(b""), "closed connection"),
        "closed in the archive": (send(format_half), r"truncated, \d+ bytes before its end"),
        "closed before a chunk": (send(CHUNKED), "IncompleteRead"),
        "closed in a chunk": (send(lambda archive: format_chunk(archive)[:-9]), "IncompleteRead"),
        "closed in an archive without a length": (
            send(lambda archive: format_without_length(archive)[:-9]),
            "corrupt .*end-of-stream",
        ),
        "too small a length": (
            send(lambda archive: format_response(archive, length=len(archive) - 9)),
            "corrupt",
        ),
    },
    "sends too much": {
        "without end": (send(NO_LENGTH, send_endlessly(bytes(1 << 16), 0)), "sends more than it should"),
        "as announced": (send(lambda archive: format_response(bytes(1 << 20))), "sends more than it should"),
        "in chunks": (
            send(CHUNKED, send_endlessly(b"1000\r\n" + bytes(0x1000) + b"\r\n", 0)),
            "sends more than it should",
        ),
        "a header without end": (
            send(b"HTTP/1.1 200 OK\r\nX: ", send_endlessly(b"x" * 9999, 0)),
            "more than 65536 bytes",
        ),
        "headers without end": (
            send(b"HTTP/1.1 200 OK\r\n", send_endlessly(b"X: x\r\n", 0)),
            "more than 100 headers",
        ),
    },
    "answers with something else": {
        "a log-in page": (send(format_response(HTML, b"Content-Type: text/html")), "corrupt .*[Nn]ot a gzip"),
        "an empty body": (send(format_response(b"")), "corrupt"),
        "no content": (send(b"HTTP/1.1 204 No Content\r\n\r\n"), "corrupt"),
        "a part": (send(lambda archive: format_response(archive[:50], status=b"206 Partial Content")), "corrupt"),
        "the archive compressed again": (
            send(lambda archive: format_response(gzip.compress(archive))),
            "corrupt",
        ),
        "other pixels": (
            send(lambda archive: format_response(gzip.compress(gzip.decompress(archive)[:-1] + b"\x09"))),
            "SHA-256",
        ),
        "the archive and a byte": (send(lambda archive: format_response(archive + b"x")), "corrupt"),
        "another protocol": (send(b"220 mail.example ESMTP\r\n"), "220 mail"),
        "a malformed chunk size": (send(CHUNKED + b"zz\r\n" + bytes(99)), "IncompleteRead"),
        "a negative chunk size": (send(CHUNKED + b"-5\r\n" + bytes(99)), "corrupt|IncompleteRead"),
    },
    "answers with an error status": {
        "404": (send_status(b"404 Not Found"), "HTTP Error 404: Not Found"),
        "403": (send_status(b"403 Forbidden"), "HTTP Error 403"),
        "401": (send_status(b"401 Who?", b"WWW-Authenticate: Basic"), "HTTP Error 401"),
        "407": (send_status(b"407 Who?", b"Proxy-Authenticate: Basic"), "HTTP Error 407"),
        "500": (send_status(b"500 Internal Server Error"), "HTTP Error 500"),
        "503": (send_status(b"503 Service Unavailable", b"Retry-After: 3600"), "HTTP Error 503"),
        "503 without a reason": (send_status(b"503 "), "HTTP Error 503"),
        "an invalid number": (send_status(b"000 ?"), "000"),
        "control characters": (send_status(b"500 \x1b[2Joops\x07"), r"HTTP Error 500: \[2Joops;"),
        "a long reason": (send_status(b"500 " + b"so " * 9999), "HTTP Error 500: so so"),
    },
    "redirects to something other than https": {
        "http": (redirect(b"http://127.0.0.1:PORT/x"), r"refused: redirects to http://127\.0\.0\.1:\d+/x, which is"),
        "HTTP": (redirect(b"HTTP://127.0.0.1:PORT/x", b"301 Moved"), "not https"),
        "http, 307": (redirect(b"http://127.0.0.1:PORT/x", b"307 Temporary"), "not https"),
        # Python 3.10 does not know this redirect
        "http, 308": (redirect(b"http://127.0.0.1:PORT/x", b"308 Permanent"), "not https|HTTP Error 308"),
        "ftp": (redirect(b"ftp://127.0.0.1:PORT/x"), "not https"),
        "file": (redirect(b"file:///etc/passwd"), "not allowed"),
        "data": (redirect(b"data:,x"), "not allowed"),
        "no address": (send_status(b"302 Found"), "HTTP Error 302"),
        "a malformed address": (redirect(b"https://[::1/x"), "malformed address"),
        "a malformed port": (redirect(b"https://127.0.0.1:x/"), "nonnumeric port"),
        "too long a name": (redirect(b"https://" + b"a" * 70 + b".invalid/"), "malformed address"),
    },
}
CASES = [
    pytest.param(answer, reason, id=f"{fault}: {case}", marks=pytest.mark.fault("data", f"mirror that {fault}"))
    for fault, cases in FAULTS.items()
    for case, (answer, reason) in cases.items()
]
NAMES = [name for files in FILES.values() for name, _, _ in files]


@pytest.mark.parametrize(("answer", "reason"), CASES)
def test_a_mirror_fault_is_one_line_and_the_next_source_serves(mirror, client, answer, reason):
    mirror.answer = answer
    message = client.assert_fails_cleanly(reason)
    assert f"{sources.DOWNLOAD_URL}: train-images-idx3-ubyte.gz: " in message
    assert mirror.connections == (4 if "corrupt" in message else 1)  # archives are verified after the last download
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror that sends one bad archive among good ones")
@pytest.mark.parametrize("content", [format_response(HTML), format_half], ids=["page", "half"])
@pytest.mark.parametrize("bad", NAMES)
def test_one_bad_archive_is_named_and_no_archive_is_kept(mirror, client, bad, content):
    mirror.answer, mirror.bad = send(content), bad
    assert f"{sources.DOWNLOAD_URL}: {bad}.gz: " in client.assert_fails_cleanly("corrupt|truncated")
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror that closes the connection after any byte")
def test_a_connection_closed_after_any_byte_is_an_error(mirror, client, archives, soak, count_cases):
    mirror.bad = "train-images"
    whole = format_response((archives / f"{mirror.bad}-idx3-ubyte.gz").read_bytes())
    kept = range(0, len(whole), 1 if soak else 5)
    for n in kept:
        mirror.answer = send(whole[:n])
        client.assert_fails_cleanly(mirror.bad)
    mirror.answer = send(whole)
    client.assert_loads_from(sources.DOWNLOAD_URL)
    count_cases(len(kept))


@pytest.mark.fault("data", "mirror that answers with any bytes")
def test_any_answer_is_one_line(mirror, client, soak, count_cases):
    lines = [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.0 302 Found", b"HTTP/1.1 308 Moved", b"HTTP/9 \xff", b"HTTP/1.1 100 Continue"),
        *(b"Content-Length: 9", b"Content-Length: -1", b"Content-Length: \xb2", b"Transfer-Encoding: chunked"),
        *(b"Location: https://[", b"Location: https://@:/", b"Location: //", b"Location: \xff", b"URI: ?"),
        *(b"Location:", b"", b"5", b"-5", b"fffffffffffffffff", b"\x1f\x8b\x08\x00", b" folded", b"\x00: \x00"),
        b"Connection: x",
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
    def check(answer, status_line_first):
        tried.append(answer)
        mirror.answer = send(lines[len(tried) % 3] + b"\r\n" + answer if status_line_first else answer)
        client.assert_fails_cleanly(sources.DOWNLOAD_URL)

    check()
    count_cases(len(tried))


@pytest.mark.fault("data", "mirror that redirects without end")
@pytest.mark.parametrize("location", [b"/train-images-idx3-ubyte.gz", b"/%d/train-images-idx3-ubyte.gz"])
def test_endless_redirects_are_given_up(mirror, client, location):
    mirror.answer = lambda wire, archive: redirect(location.replace(b"%d", b"%d" % mirror.connections))(wire, archive)
    client.assert_fails_cleanly("HTTP Error 302: .*infinite loop")
    assert mirror.connections < 12
    client.assert_next_source_serves()


@pytest.mark.fault("data", "mirror that redirects to something other than https")
def test_a_redirect_to_http_after_one_to_https_is_refused(mirror, client):
    locations = iter((b"/1/train-images-idx3-ubyte.gz", b"http://127.0.0.1:PORT/2") * 2)
    mirror.answer = lambda wire, archive: redirect(next(locations))(wire, archive)
    client.assert_fails_cleanly("refused: redirects to http://.*/2, which is not https")
    assert mirror.connections == 2
    client.assert_next_source_serves()


def issue_untrusted(kind, authority):
    """Return the TLS context of a server whose certificate a client should not trust."""
    if kind == "another authority":
        return make_context(trustme.CA().issue_cert("127.0.0.1"))
    if kind == "another name":
        return make_context(authority.issue_cert("mirror.example"))
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    return make_context(authority.issue_cert("127.0.0.1", not_after=yesterday))


@pytest.mark.fault("data", "mirror with an untrusted certificate")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("another authority", "CERTIFICATE_VERIFY_FAILED.*unable to get local issuer|self.signed"),
        ("another name", "CERTIFICATE_VERIFY_FAILED.*IP address mismatch"),
        ("expired", "CERTIFICATE_VERIFY_FAILED.*expired"),
    ],
)
def test_an_untrusted_certificate_is_refused(mirror, client, authority, kind, reason):
    requests = []
    mirror.context = issue_untrusted(kind, authority)
    mirror.serve = requests.append
    client.assert_fails_cleanly(reason)
    client.assert_next_source_serves()
    assert not requests


RECORD = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"  # the start of a TLS record of 16 KiB, a ServerHello


@pytest.mark.fault("data", "mirror without TLS, or with an incomplete handshake")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (stall, "handshake .*timed out"),
        (send(RECORD, stall), "handshake .*timed out"),
        (send(RECORD, send_endlessly(b"x")), "handshake .*timed out"),
        (send(RECORD), "EOF|eof|reset"),
        (send(b""), "EOF|eof|reset"),
        (reset, "reset|EOF|eof"),
        (send(format_response(HTML)), "SSL"),
        (send(bytes(99)), "SSL"),
    ],
    ids=["stalls", "half, then stalls", "slow without end", "half", "closes", "resets", "plain http", "zeros"],
)
def test_an_incomplete_handshake_is_one_line(mirror, client, answer, reason):
    mirror.context, mirror.serve = None, lambda wire: answer(wire, None)
    client.assert_fails_cleanly(reason)
    client.assert_next_source_serves()


@pytest.mark.fault("data", "proxy that refuses or hangs; malformed address of a proxy")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(stall, "timed out", id="stalls"),
        pytest.param(send(b"HTTP/1.0 200 Conn", stall), "timed out", id="stalls in its answer"),
        pytest.param(send(CONNECTED, stall), "handshake .*timed out", id="stalls after its answer"),
        pytest.param(send(b"HTTP/1.0 407 Who?\r\n\r\n"), "Tunnel connection failed: 407 Who", id="407"),
        pytest.param(send(b"HTTP/1.0 503 \x1b[2J\r\n\r\n"), "Tunnel connection failed: 503", id="503"),
        pytest.param(send(format_response(HTML)), "SSL|pipe|reset|EOF", id="page"),
        pytest.param(send(b"SSH-2.0-x\r\n"), "SSH-2.0", id="another protocol"),
        pytest.param(send(b""), "closed|reset", id="closes"),
        pytest.param(reset, "reset|closed", id="resets"),
    ],
)
def test_a_bad_proxy_is_one_line(mirror, client, start_proxy, answer, reason):
    start_proxy(answer)
    client.assert_fails_cleanly(reason)
    client.assert_next_source_serves()
    assert not mirror.connections


@pytest.mark.fault("data", "proxy that refuses or hangs; malformed address of a proxy")
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:x", "nonnumeric port"),
        ("http://", "no host|malformed address"),
        ("http://[", "malformed address|not known|Name or service"),
        (f"http://{'a' * 70}.invalid:1", "malformed address"),
        ("socks5://127.0.0.1:1", "unknown url type|refused"),
    ],
)
def test_a_bad_address_of_a_proxy_is_one_line(mirror, client, monkeypatch, address, reason):
    monkeypatch.setenv("https_proxy", address)
    client.assert_fails_cleanly(reason)
    client.assert_next_source_serves()
    assert not mirror.connections


@pytest.mark.fault("data", "mirror with a fault, met by a program")
@pytest.mark.parametrize(
    ("answer", "code", "last"),
    [
        (send_archive, 0, r"data: https://127\.0\.0\.1:\d+/"),
        (send(format_response(HTML)), 1, "error: Fashion-MNIST was not found: .*corrupt"),
        (send(format_half), 1, "error: .*truncated"),
        (redirect(b"http://127.0.0.1:PORT/"), 1, "error: .*not https"),
    ],
    ids=["no fault", "page", "half", "http"],
)
def test_a_program_ends_with_one_line(mirror, client, answer, code, last):
    mirror.answer = answer
    process = client.start_program()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "" if code else "300\n")
    *notes, final = stderr.splitlines()
    assert all(note.startswith("fetching Fashion-MNIST") for note in notes)
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
