"""evloop under asyncio: the same reactor as an asyncio event loop, for existing asyncio code and for both at once.

>>> import evloop.aio
>>> async def main():
...     return "any asyncio program"
>>> evloop.aio.run(main())
'any asyncio program'

Also ``asyncio.Runner(loop_factory=evloop.aio.new_event_loop)``, and ``uvicorn --loop evloop.aio:new_event_loop``.
"""

from evloop.aio.client import connect
from evloop.aio.frames import BufferedFrames
from evloop.aio.loop import EventLoop, EventLoopPolicy, new_event_loop, run
from evloop.aio.streams import (
    StreamReader,
    StreamReaderProtocol,
    StreamWriter,
    open_connection,
    open_unix_connection,
    start_server,
    start_unix_server,
)

__all__ = [
    # the loop
    "EventLoop",
    "EventLoopPolicy",
    "new_event_loop",
    "run",
    # frames
    "BufferedFrames",
    "connect",
    # asyncio's streams
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]
