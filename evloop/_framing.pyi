# The compiled twin has the types of the pure one, by construction and by test (tests/meta/test_twins.py).

from evloop._framing_py import Codec as Codec
from evloop._framing_py import FrameDecoder as FrameDecoder
from evloop._framing_py import Framing as Framing

IMPLEMENTATION: str
