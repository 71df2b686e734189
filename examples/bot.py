"""A bot in a chat room that answers whoever greets it.  Start the server first: evloop serve chat

Usage: python examples/bot.py [ADDR] [ROOM]
"""

import asyncio
import sys

from evloop.apps.chat import Client


async def main(address="127.0.0.1:9000", room="lobby"):
    async with Client(address, nick="bot") as chat:
        await chat.join(room)
        async for message in chat:
            if message.body.startswith(("hello", "你好")):
                await chat.reply(message, f"{message.body.split()[0]}, {message.sender}!")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
