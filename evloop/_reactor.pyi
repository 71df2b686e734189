# The compiled twin has the types of the pure one, by construction and by test
# (tests/contract/test_reactor_differential.py).

from evloop._reactor_py import RECV_BUFFER as RECV_BUFFER
from evloop._reactor_py import Core as Core
from evloop._reactor_py import Endpoint as Endpoint
from evloop._reactor_py import EpollSelector as EpollSelector
from evloop._reactor_py import Handle as Handle
from evloop._reactor_py import Reactor as Reactor
from evloop._reactor_py import TimerHandle as TimerHandle

IMPLEMENTATION: str
