"""What the tests of groups share: a group of the twin whose connections a world has, and members for it.

Rule: nothing in this file may know how a group works inside.
"""

from __future__ import annotations

import socket

from kernel import implementation_of
from peers import FrameRecorder

from evloop._group_py import Group as PureGroup


def group_class(connection_class):
    """Return the group for connections of a class."""
    if implementation_of(connection_class) == "python":
        return PureGroup
    from evloop._group import Group

    return Group


def members(world, group, count, make=FrameRecorder, **options):
    """Add *count* connections to *group*; return (connection, peer) of each.  The peers read."""
    options = {"pair": socket.socketpair, "reading": True, **options}
    made = [world.connect(make(), **options) for _ in range(count)]
    for conn, _peer in made:
        group.add(conn)
    return made


def frames_of(made):
    """Return what the peer of each has received, as frames."""
    return [peer.frames for _conn, peer in made]
