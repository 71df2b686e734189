# The compiled twin has the types of the pure one, by construction and by test (tests/contract/test_session*.py).

from evloop.aio._session_py import Session as Session
from evloop.aio._session_py import Wait as Wait

IMPLEMENTATION: str
