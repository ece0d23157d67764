"""Archives that are truncated, changed or made up: each is read as it was described, or is an error."""

import gzip
import hashlib
import os
import random
import re
import struct
import time
import tracemalloc
import zlib

import pytest
from conftest import flip_bits
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st
from mirror import HTML, make_archive  # noqa: F401 - fixture

from lab.plumbing.sources import CorruptArchive, DataError, read_archive

SOAK_SECONDS = 300
SLACK = 300_000  # bytes that reading may take beside the content, mostly gzip's buffers


@pytest.mark.fault("data", "truncated archive")
def test_an_archive_truncated_anywhere_is_corrupt(archive, soak, count_cases):
    (path, size, sha256), _ = archive
    whole = path.read_bytes()
    kept = range(0, len(whole), 1 if soak else 13)
    for n in kept:
        path.write_bytes(whole[:n])
        with pytest.raises(CorruptArchive, match=path.name):
            read_archive(path, size, sha256)
    count_cases(len(kept))


@pytest.mark.fault("data", "archive with a bit flipped")
def test_every_flipped_bit_is_detected_or_irrelevant(archive, soak, count_cases):
    (path, size, sha256), content = archive
    for _ in flip_bits(path, 1 if soak else 97, count_cases):
        try:
            read = read_archive(path, size, sha256)
        except CorruptArchive:
            continue
        # some bits, such as those of gzip's time stamp, do not change the content
        assert read == content


@pytest.mark.fault("data", "archive with another digest")
@pytest.mark.parametrize("digest", ["", "0" * 64])
def test_another_digest_is_detected(archive, digest):
    (path, size, _), _ = archive
    with pytest.raises(CorruptArchive, match="SHA-256"):
        read_archive(path, size, digest)


@pytest.mark.fault("data", "file that is not the archive: empty, an HTML page, another content")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: b"", "holds 0 bytes"),
        (lambda content: HTML, "Not a gzipped file"),
        (lambda content: content, "Not a gzipped file"),
        (lambda content: gzip.compress(b""), "holds 0 bytes"),
        (lambda content: gzip.compress(HTML), f"holds {len(HTML)} bytes"),
        (lambda content: gzip.compress(content[:-1]), "holds 5,503 bytes instead of 5,504"),
        (lambda content: gzip.compress(content + b"\x00"), "more than 5,504 bytes instead of 5,504"),
        (lambda content: gzip.compress(b"\x00\x00\x09\x03" + content[4:]), "SHA-256"),
        (lambda content: gzip.compress(content[:-1] + bytes([content[-1] ^ 1])), "SHA-256"),
        (lambda content: gzip.compress(content[::-1]), "SHA-256"),
        (lambda content: gzip.compress(bytes(len(content))), "SHA-256"),
    ],
    ids=[
        *("empty file", "HTML page", "uncompressed", "nothing compressed", "HTML page compressed", "a byte too short"),
        *("a byte too long", "another header", "another pixel", "reversed", "zeros"),
    ],
)
def test_another_content_is_corrupt(archive, change, reason):
    (path, size, sha256), content = archive
    path.write_bytes(change(content))
    with pytest.raises(CorruptArchive, match=f"{path.name}: corrupt .*{reason}"):
        read_archive(path, size, sha256)


@pytest.mark.fault("data", "missing archive, or a folder, a FIFO or a link loop in its place")
@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "link loop"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "x.gz"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link loop":
        path.symlink_to(path)
    with pytest.raises(DataError, match="no such file"):
        read_archive(path, 1, "")


def truncate(content, at):
    return content[: at % (len(content) + 1)]


def flip(content, bits):
    changed = bytearray(content)
    for bit in bits if content else ():
        changed[bit // 8 % len(content)] ^= 1 << bit % 8
    return bytes(changed)


def insert(content, at, piece, replaced):
    at %= len(content) + 1
    return content[:at] + piece + content[at + replaced :]


def mutate(contents):
    """Return a strategy of contents unchanged, truncated, with bits flipped, or with a piece inserted."""
    anywhere = st.integers(0, 2**16)
    return st.one_of(
        contents,
        st.builds(truncate, contents, anywhere),
        st.builds(flip, contents, st.lists(anywhere, min_size=1, max_size=5)),
        st.builds(insert, contents, anywhere, st.binary(max_size=9), st.integers(0, 9)),
    )


def format_member(content, level, flags, extra, checked):
    """Return a gzip member (RFC 1952) with any flags and with the bytes that follow its header for their sake."""
    compressor = zlib.compressobj(level, wbits=-15)
    body = compressor.compress(content) + compressor.flush()
    trailer = struct.pack("<II", zlib.crc32(content) if checked else 0, len(content) % 2**32)
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra + body + trailer


# flags and the bytes they require: a text, a header's checksum, extra fields, a name, a comment, a reserved flag
FLAGS = {
    0: b"",
    1: b"",
    2: b"\x00\x00",
    4: b"\x03\x00abc",
    8: b"name\x00",
    16: b"words\x00",
    128: b"",
    28: b"\x00\x00a\x00\x00",
}
contents = st.binary(max_size=100) | st.sampled_from([1, 783, 784, 785, 2352]).map(bytes)
members = st.builds(
    lambda content, level, flags, checked: format_member(content, level, flags, FLAGS[flags], checked),
    *(contents, st.integers(0, 9), st.sampled_from(list(FLAGS)), st.booleans()),
) | st.builds(format_member, contents, st.just(1), st.integers(0, 255), st.binary(max_size=9), st.just(True))
archives = st.builds(
    lambda parts, rest: b"".join(parts) + rest, st.lists(mutate(members), max_size=4), st.just(b"") | st.binary()
)


def generalize(reason):
    """Check that an error's reason is one line; return it without what differs from case to case."""
    assert reason.isprintable()
    return re.sub(r"b'.*'|with [0-9a-f]+|0x[0-9a-f]+|\d[\d,.]*", "#", reason)


def read_within_memory(path, size, sha256):
    """Read an archive; check that this takes no more memory than twice its bytes, compressed and not."""
    tracemalloc.start()
    try:
        return read_archive(path, size, sha256)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * (path.stat().st_size + size) + SLACK


def check_archive(path, archive, seen):
    """Read an archive as it is described, and then with too small a size, too large a size, and another digest."""
    path.write_bytes(archive)
    try:
        content = gzip.decompress(archive)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        content = None
    size, sha256 = len(content or b""), hashlib.sha256(content or b"").hexdigest()
    for wanted in (size, size - 1, size + 1, 784):
        if wanted < 0:
            continue
        for digest in (sha256, "0" * 64):
            try:
                read = read_within_memory(path, wanted, digest)
            except CorruptArchive as error:
                seen.add(generalize(str(error).removeprefix(f"{path}: ")))
                assert (wanted, digest) != (size, sha256) or content is None
            else:
                seen.add("read")
                assert (wanted, digest) == (size, sha256)
                assert read == content


def fuzz(check, soak, examples):
    """Run a hypothesis test once with the same inputs every time, or for five minutes with new inputs."""
    relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    once = {"deadline": None, "database": None, "suppress_health_check": relaxed}
    if not soak:
        settings(max_examples=examples, derandomize=True, **once)(check)()
        return
    check = settings(max_examples=500, **once)(check)
    end = time.monotonic() + SOAK_SECONDS
    while time.monotonic() < end:
        seed(random.SystemRandom().getrandbits(64))(check)()


@pytest.mark.fault("data", "gzip files by fuzzing")
def test_any_gzip_file_is_read_whole_or_corrupt(tmp_path, soak, count_cases):
    seen, tried = set(), []
    labels = b"\x00\x00\x08\x01\x00\x00\x00\x02\x01\x09"

    @example(b"")
    @example(b"\x1f\x8b")
    @example(gzip.compress(labels) + bytes(100))  # zeros after the last member are ignored
    @example(gzip.compress(labels) + b"\x00\x01")
    @example(gzip.compress(labels[:5]) + gzip.compress(labels[5:]))  # members are concatenated
    @example(gzip.compress(b"") * 1000 + gzip.compress(labels))
    @example(gzip.compress(labels) * 2)
    @example(gzip.compress(labels) + gzip.compress(b"")[:-1])
    @example(format_member(labels, 6, 4, b"\xff\xff", True))  # an extra field that is longer than the file
    @example(format_member(labels, 6, 8, b"name without an end", True))
    @example(format_member(labels, 6, 0xE0, b"", True))  # reserved flags, which Python ignores
    @example(format_member(labels, 6, 0, b"", False))
    @example(gzip.compress(gzip.compress(labels)))
    @given(archives)
    def check(archive):
        tried.append(None)
        check_archive(tmp_path / "x.gz", archive, seen)

    fuzz(check, soak, 500)
    reasons = " ".join(seen)
    for reason in (
        "Not a gzipped file",
        "Compressed file ended",
        "CRC check failed",
        "Incorrect length of data",
        "Unknown compression method",
        "while decompressing",
        "holds # bytes instead of #",
        "holds more than # bytes",
        "its SHA-#",
        "read",
    ):
        assert reason in reasons, (reason, sorted(seen))
    count_cases(len(tried))
