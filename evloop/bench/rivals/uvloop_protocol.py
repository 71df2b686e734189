"""An echo server of frames: the Protocol of asyncio_protocol on uvloop."""
# mypy: ignore-errors

import uvloop
from asyncio_protocol import main

if __name__ == "__main__":
    uvloop.run(main())
