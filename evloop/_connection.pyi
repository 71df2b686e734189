# The compiled twin has the types of the pure one, by construction and by test (tests/contract/test_connection*.py).

from evloop._connection_pull import Puller as Puller
from evloop._connection_py import Connection as Connection
from evloop._connection_shared import Budget as Budget
from evloop.sockets import accept as accept

IMPLEMENTATION: str
