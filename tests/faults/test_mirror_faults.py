"""The download from a real HTTPS server on this machine with every kind of fault that a mirror can have."""

import re
import signal
import time

import pytest
import trustme
from mirror import HTML, NAMES, NO_LENGTH, format_half, format_response, make_context, send, send_endlessly, stall

from lab.guard import sources

MOVED = b"302 Found"
ITSELF, NOWHERE = b"Location: /train-images-idx3-ubyte.gz", b"Location: https://[::1/x"
HTTP, FTP = b"Location: HTTP://127.0.0.1:1/x", b"Location: ftp://127.0.0.1:1/x"
NOT_HTTPS = "refused: redirects to .*, which is not https"
FAULTS = {
    "stalls": (stall, "timed out"),
    "stalls in the middle": (send(format_half, stall), "timed out"),
    "sends slowly without end": (send(NO_LENGTH, send_endlessly(b"\x1f", pause=0.02)), "not done after 1 s"),
    "sends too much": (send(NO_LENGTH, send_endlessly(bytes(1 << 16))), "sends more than it should"),
    "closes the connection": (send(b""), "closed connection"),
    "closes the connection in the middle": (send(format_half), "cannot be read .*end-of-stream"),
    "answers with a page": (send(format_response(HTML, b"Content-Type: text/html")), "SHA-256"),
    "speaks another protocol": (send(b"220 mail.example ESMTP\r\n"), "220 mail"),
    "answers with an error status": (send(format_response(HTML, status=b"404 Not Found")), "Error 404: Not Found"),
    "sends control characters": (
        send(format_response(HTML, status=b"500 \x1b[2Jo\x07" + b"so " * 999)),
        r"\?\[2Jo\?so",
    ),
    "redirects without end": (send(format_response(HTML, ITSELF, status=MOVED)), "infinite loop"),
    "redirects to http": (send(format_response(HTML, HTTP, status=MOVED)), NOT_HTTPS),
    "redirects to ftp": (send(format_response(HTML, FTP, status=MOVED)), NOT_HTTPS),
    "redirects nowhere": (send(format_response(HTML, NOWHERE, status=MOVED)), "Invalid|IPv6"),
}


@pytest.mark.fault("data", "mirror that stalls, breaks off, sends too much, or something else")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line(mirror, client, monkeypatch, fault):
    mirror.answer, reason = FAULTS[fault]
    if "timed out" in reason:  # only then: on a busy machine, a slow answer may pause for long
        monkeypatch.setattr(sources, "SILENCE_SECONDS", 0.3)
    if "not done" in reason:
        monkeypatch.setattr(sources, "DOWNLOAD_SECONDS", 1)
    message = client.assert_fails_cleanly(reason)
    assert f"{sources.DOWNLOAD_URL}: train-images-idx3-ubyte.gz: " in message
    assert mirror.connections < 12


@pytest.mark.fault("data", "mirror that sends one bad file among good ones")
def test_one_bad_file_is_named_none_is_kept_and_the_next_source_serves(mirror, client, archives, monkeypatch):
    mirror.answer, mirror.bad = send(format_response(HTML)), NAMES[3]
    assert f"{sources.DOWNLOAD_URL}: {NAMES[3]}.gz: corrupt" in client.assert_fails_cleanly("SHA-256")
    monkeypatch.setattr(sources, "_unpack_package", lambda folder, names: archives)
    assert client.load() == f"package {sources.DEBIAN_PACKAGE}"
    assert client.kept_files() == sorted(f"{name}.gz" for name in NAMES)


@pytest.mark.fault("data", "mirror with an untrusted certificate, or without TLS")
@pytest.mark.parametrize("encrypted", [True, False])
def test_only_a_trusted_mirror_is_asked(mirror, client, encrypted):
    requests = []
    mirror.context, mirror.answer = make_context(trustme.CA()) if encrypted else None, lambda *_: requests.append(1)
    reason = "CERTIFICATE_VERIFY_FAILED.*(unable to get local issuer|self.signed)" if encrypted else "SSL|EOF|closed"
    assert "set SSL_CERT_FILE" in client.assert_fails_cleanly(reason)
    assert not requests


@pytest.mark.fault("data", "proxy out of reach; malformed address of a proxy")
@pytest.mark.parametrize(
    ("proxy", "reason"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://127.0.0.1:x", "nonnumeric port"),
        ("http://[", "Invalid IPv6|idna|not known|Name or service|label"),
    ],
)
def test_a_bad_proxy_is_one_line(mirror, client, monkeypatch, proxy, reason):
    monkeypatch.setenv("https_proxy", proxy)
    client.assert_fails_cleanly(reason)
    assert not mirror.connections


@pytest.mark.fault("data", "mirror with a fault, or a full disk, met by a program")
def test_a_program_with_a_full_disk_ends_with_one_line(mirror, client):
    process = client.start_program("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    *notes, final = stderr.splitlines()
    assert all(line.startswith("fetching fashion-mnist") for line in notes)
    assert re.match("error: .*train-images-idx3-ubyte.gz: .*File too large", final)
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


def test_several_processes_fill_an_empty_cache_at_once(mirror, client):
    processes = [client.start_program() for _ in range(2)]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["300\n"] * 2
    assert not client.temporary_files()
    assert client.kept_files() == sorted(f"{name}.gz" for name in NAMES)
