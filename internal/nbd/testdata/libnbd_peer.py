# Asserts what libnbd sees of an export of 16 MiB. Usage: libnbd_peer.py URI
import errno
import sys

import nbd

uri = sys.argv[1]
h = nbd.NBD()
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.set_strict_mode(0)  # let bad requests through to the server
h.connect_uri(uri)

assert h.get_size() == 16 << 20
assert h.get_structured_replies_negotiated()
assert h.can_multi_conn() and h.can_fua() and h.can_flush() and h.can_df()
assert h.can_zero() and h.can_fast_zero() and h.can_trim() and h.can_cache()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)

# Forced unit access, seen by a second connection.
h.pwrite(b"\x11" * 65536, 0, nbd.CMD_FLAG_FUA)
g = nbd.NBD()
g.connect_uri(uri)
assert g.pread(65536, 0) == b"\x11" * 65536
g.pwrite(b"\x22" * 4096, 4096)
h.flush()
assert h.pread(4096, 4096) == b"\x22" * 4096

# Structured reads, whole and in one piece.
chunks = []
h.pread_structured(65536, 0, lambda buf, off, status, err: chunks.append((len(buf), off, status)))
assert sum(c[0] for c in chunks) == 65536, chunks
chunks.clear()
h.pread_structured(8192, 100, lambda buf, off, status, err: chunks.append((len(buf), off, status)), nbd.CMD_FLAG_DF)
assert chunks == [(8192, 100, nbd.READ_DATA)], chunks

# Zeroing in all its kinds.
for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE):
    h.pwrite(b"\x33" * 65536, 1 << 20)
    try:
        h.zero(65536, 1 << 20, flags)
        assert h.pread(65536, 1 << 20) == bytes(65536)
    except nbd.Error as e:
        assert flags & nbd.CMD_FLAG_FAST_ZERO and e.errnum == errno.ENOTSUP, e
h.trim(65536, 2 << 20, nbd.CMD_FLAG_FUA)
h.cache(65536, 0)

# Block status: data, then a hole; one extent with REQ_ONE.
seen = []
def status(context, offset, entries, err):
    assert context == nbd.CONTEXT_BASE_ALLOCATION
    seen.extend(zip(entries[0::2], entries[1::2]))
h.block_status(4 << 20, 8 << 20, status)
assert seen and all(state == nbd.STATE_HOLE | nbd.STATE_ZERO for _, state in seen), seen
seen.clear()
h.block_status(65536, 0, status, nbd.CMD_FLAG_REQ_ONE)
assert seen == [(65536, 0)], seen

# Refusals leave the connection alive.
for call, want in (
    (lambda: h.pread(512, 16 << 20), errno.EINVAL),
    (lambda: h.pwrite(b"x" * 512, (16 << 20) - 1), errno.ENOSPC),
    (lambda: h.trim(512, 16 << 20), errno.EINVAL),
    (lambda: h.pread(0, 0), errno.EINVAL),
):
    try:
        call()
        raise AssertionError("a bad request succeeded")
    except nbd.Error as e:
        assert e.errnum == want, (e.errnum, want)

# Many in flight.
done = []
bufs = [nbd.Buffer.from_bytearray(bytearray([i] * 4096)) for i in range(64)]
for i, b in enumerate(bufs):
    h.aio_pwrite(b, i * 4096, lambda err: done.append(err.value) or 1)
while len(done) < 64:
    h.poll(-1)
assert not any(done)
assert h.pread(64 * 4096, 0) == b"".join(bytes([i]) * 4096 for i in range(64))

h.shutdown()
g.shutdown()
print("all good")
