"""IDX bytes and gzip files such as no program writes: `parse_idx` and `read_idx` read them or say what is damaged.

The code has few branches, and a few hundred inputs reach all of them, which is asserted: a fuzzer that is guided by
coverage would have nothing to be guided to.
"""

import gzip
import hashlib
import random
import re
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from lab import data
from lab.data import DamagedFile

SOAK_SECONDS = 600
SLACK = 300_000  # bytes beside the content that reading may take: gzip's buffers, mostly

LABELS, IMAGES = b"\x00\x00\x08\x01", b"\x00\x00\x08\x03"
sizes = st.integers(0, 3) | st.sampled_from([28, 255, 256, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
pixels = st.sampled_from([0, 1, 2, 3, 783, 784, 785, 1568, 2352]).map(bytes) | st.binary(max_size=40)
headers = st.builds(
    lambda magic, shape: magic + b"".join(n.to_bytes(4, "big") for n in shape),
    st.sampled_from([LABELS, IMAGES]) | st.binary(min_size=4, max_size=4),
    st.tuples(sizes, *2 * [st.just(28) | sizes]) | st.lists(sizes, max_size=4),
)
files = st.builds(bytes.__add__, headers, pixels) | st.binary(max_size=100)
# what is read well, once in a while
files |= st.integers(0, 3).map(lambda n: IMAGES + struct.pack(">III", n, 28, 28) + bytes(784 * n))
files |= st.binary(max_size=40).map(lambda labels: LABELS + struct.pack(">I", len(labels)) + labels)


def cut(content, at):
    return content[: at % (len(content) + 1)]


def with_bits_flipped(content, bits):
    changed = bytearray(content)
    for bit in bits if content else ():
        changed[bit // 8 % len(content)] ^= 1 << bit % 8
    return bytes(changed)


def with_piece(content, at, piece, replaced):
    at %= len(content) + 1
    return content[:at] + piece + content[at + replaced :]


def mutated(contents):
    """Return a strategy of contents as they are, cut off, with bits flipped, or with a piece put in."""
    anywhere = st.integers(0, 2**16)
    return st.one_of(
        contents,
        st.builds(cut, contents, anywhere),
        st.builds(with_bits_flipped, contents, st.lists(anywhere, min_size=1, max_size=5)),
        st.builds(with_piece, contents, anywhere, st.binary(max_size=9), st.integers(0, 9)),
    )


def member(content, level, flags, extra, checked):
    """Return a gzip member (RFC 1952) with any flags, and whatever may follow its header for their sake."""
    compressor = zlib.compressobj(level, wbits=-15)
    body = compressor.compress(content) + compressor.flush()
    trailer = struct.pack("<II", zlib.crc32(content) if checked else 0, len(content) % 2**32)
    return b"\x1f\x8b\x08" + bytes([flags]) + bytes(6) + extra + body + trailer


# flags and what goes with them: a text, a header's checksum, extra fields, a name, a comment, what is reserved
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
members = st.builds(
    lambda content, level, flags, checked: member(content, level, flags, FLAGS[flags], checked),
    *(files, st.integers(0, 9), st.sampled_from(list(FLAGS)), st.booleans()),
) | st.builds(member, files, st.just(1), st.integers(0, 255), st.binary(max_size=9), st.just(True))
archives = st.builds(
    lambda parts, rest: b"".join(parts) + rest, st.lists(mutated(members), max_size=4), st.just(b"") | st.binary()
)


def kind(reason):
    """Return a reason for damage, which is to be one line, without what differs from case to case."""
    assert reason.isprintable()
    return re.sub(r"b'.*'|with [0-9a-f]+|0x[0-9a-f]+|\d[\d,.]*", "#", reason)


def within_memory(size, function, *arguments):
    """Call; see that it takes no more memory than twice the content, whatever a header announces."""
    tracemalloc.start()
    try:
        return function(*arguments)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * size + SLACK


def assert_as_documented(array, content):
    """See that the array is the content, and neither it nor its type is a surprise."""
    assert array.dtype == np.uint8
    assert array.shape in ((len(array),), (len(array), 28, 28))
    assert not array.flags.writeable
    assert content[4:8] == len(array).to_bytes(4, "big")
    assert content[4 + 4 * array.ndim :] == array.tobytes()
    assert array.ndim == content[3]


def parse(content, seen):
    try:
        array = within_memory(len(content), data.parse_idx, content)
    except DamagedFile as error:
        seen.add(kind(str(error)))
    else:
        seen.add(f"read, {array.ndim} dimensions{', empty' if not len(array) else ''}")
        assert_as_documented(array, content)


def read(path, archive, seen):
    """Read an archive, the table telling the truth about it, and then too little, too much, and another digest."""
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
                array = within_memory(len(archive) + wanted, data.read_idx, path, wanted, digest)
            except DamagedFile as error:
                seen.add(kind(str(error).removeprefix(f"{path}: ")))
            else:
                seen.add("read")
                assert (wanted, digest) == (size, sha256)
                assert_as_documented(array, content)


def fuzz(check, soak, examples):
    """Run a hypothesis test once with the same inputs as ever, or for ten minutes with inputs that nobody has seen."""
    relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    once = {"deadline": None, "database": None, "suppress_health_check": relaxed}
    if not soak:
        settings(max_examples=examples, derandomize=True, **once)(check)()
        return
    check = settings(max_examples=500, **once)(check)
    end = time.monotonic() + SOAK_SECONDS / 2  # there are two tests
    while time.monotonic() < end:
        seed(random.SystemRandom().getrandbits(64))(check)()


@pytest.mark.fault("data", "IDX bytes by fuzzing")
def test_any_bytes_are_an_array_or_damage(soak, count_cases):
    seen, tried = set(), []

    @example(b"")
    @example(b"\x00\x00\x08")
    @example(LABELS)
    @example(LABELS + bytes(4))  # no labels at all are an array, if an empty one
    @example(IMAGES + bytes(12))  # 0 images of 0 x 0 pixels
    @example(IMAGES + struct.pack(">III", 0, 28, 28))
    @example(IMAGES + struct.pack(">III", 0, 2**32 - 1, 2**32 - 1))
    @example(IMAGES + struct.pack(">III", 2**32 - 1, 28, 28))  # 3.4 TB
    @example(IMAGES + struct.pack(">III", 2**32 - 1, 2**32 - 1, 2**32 - 1))  # more than 64 bits can count
    @example(IMAGES + struct.pack(">III", 2**31, 28, 28) + bytes(784))
    @example(IMAGES + struct.pack(">III", 2**32 // 16, 28, 28))  # 0 bytes, counted in 32 bits
    @example(LABELS + struct.pack(">I", 2**32 - 1) + b"\x07")
    @given(mutated(files))
    def check(content):
        tried.append(None)
        parse(content, seen)

    fuzz(check, soak, 1500)
    assert seen >= {
        "no IDX file of images or labels: it starts #",
        "cut off in its header",
        "images of # x # pixels instead of # x #",
        "# values where its header announces #",
        *(f"read, {n} dimensions{empty}" for n in (1, 3) for empty in ("", ", empty")),
    }
    count_cases(len(tried))


@pytest.mark.fault("data", "gzip files by fuzzing")
def test_any_file_is_the_very_array_or_damage(tmp_path, soak, count_cases):
    seen, tried = set(), []
    labels = LABELS + b"\x00\x00\x00\x02\x01\x09"

    @example(b"")
    @example(b"\x1f\x8b")
    @example(gzip.compress(labels) + bytes(100))  # zeros behind are none of the content
    @example(gzip.compress(labels) + b"\x00\x01")
    @example(gzip.compress(labels[:5]) + gzip.compress(labels[5:]))  # members put together are one content
    @example(gzip.compress(b"") * 1000 + gzip.compress(labels))
    @example(gzip.compress(labels) * 2)
    @example(gzip.compress(labels) + gzip.compress(b"")[:-1])
    @example(member(labels, 6, 4, b"\xff\xff", True))  # an extra field that is longer than the file
    @example(member(labels, 6, 8, b"name without an end", True))
    @example(member(labels, 6, 0xE0, b"", True))  # reserved flags, which Python passes over
    @example(member(labels, 6, 0, b"", False))
    @example(gzip.compress(gzip.compress(labels)))
    @example(gzip.compress(LABELS + b"\x00"))
    @example(gzip.compress(IMAGES + struct.pack(">III", 2**32 - 1, 28, 28)))
    @given(archives)
    def check(archive):
        tried.append(None)
        read(tmp_path / "x.gz", archive, seen)

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
        "no IDX file",
        "cut off in its header",
        "announces",
        "its SHA-#",
        "read",
    ):
        assert reason in reasons, (reason, sorted(seen))
    count_cases(len(tried))
