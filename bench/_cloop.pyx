"""The C floor of the framing benchmark, as Python sees it: all of its work is in ``_cloop.h``."""

cdef extern from "_cloop.h":
    ctypedef struct cloop_decoder:
        pass
    void cloop_drop(cloop_decoder* decoder) noexcept
    object cloop_feed(cloop_decoder* decoder, object chunk)
    object cloop_encode(object payload)
    object cloop_encode_many(object payloads)


cdef class Decoder:
    """A decoder of 4-byte big-endian frames of at most 1 MiB."""

    cdef cloop_decoder state

    def __dealloc__(self):
        cloop_drop(&self.state)

    def feed(self, bytes chunk not None):
        """Return the list of frames that *chunk* completes; ValueError for a longer one."""
        return cloop_feed(&self.state, chunk)


def encode(bytes payload not None):
    """Return one frame."""
    return cloop_encode(payload)


def encode_many(list payloads not None):
    """Return the frames of a list of bytes as one bytes object."""
    return cloop_encode_many(payloads)
