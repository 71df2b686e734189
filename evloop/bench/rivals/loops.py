"""What the servers of asyncio share: the event loop, chosen by its name on the command line, and the listening line.

Rule: nothing in this file may run per message.
"""
# mypy: ignore-errors

import asyncio
import importlib
import sys

# The modules that make the loops; aiofastnet puts its transports on any.
LOOPS = {
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "aiofastnet": "uvloop",
    "rloop": "rloop",
    "evloop.aio": "evloop.aio",
}


def main(listen):
    """Serve on the loop that the command line names, until the process is killed; ``await listen()`` is the server."""

    async def program():
        server = await listen()
        print(f"LISTENING tcp 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.Event().wait()  # not serve_forever(): rloop 0.5 stops listening when it starts to serve again

    loop = importlib.import_module(LOOPS[sys.argv[1]]).new_event_loop()
    loop.run_until_complete(program())


def serve_streams(handler):
    """Serve connections that each have a reader, a writer and a task of *handler*, as :func:`main` does."""

    def listen():
        if sys.argv[1] == "aiofastnet":
            loop = asyncio.get_running_loop()
            return importlib.import_module("aiofastnet").start_server(loop, handler, "127.0.0.1", 0)
        return asyncio.start_server(handler, "127.0.0.1", 0)

    main(listen)


def serve_protocol(protocol):
    """Serve connections that each have a *protocol* of their own, as :func:`main` does."""

    def listen():
        loop = asyncio.get_running_loop()
        if sys.argv[1] == "aiofastnet":
            return importlib.import_module("aiofastnet").create_server(loop, protocol, "127.0.0.1", 0)
        return loop.create_server(protocol, "127.0.0.1", 0)

    main(listen)
