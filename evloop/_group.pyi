# The compiled twin has the types of the pure one, by construction and by test (tests/contract/test_group*.py).

from evloop._group_py import Group as Group

IMPLEMENTATION: str
