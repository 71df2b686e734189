"""redis.asyncio on our loop, against a real redis-server: a client of streams, with a pool and time-outs of its own."""
# ruff: noqa: F401, F811 - pytest finds a fixture by its name in the module

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess

import pytest
import redis.asyncio as redis
from aioloops import run_program
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

MIB = 1 << 20
ATTEMPTS = 5  # at a port that was free a moment ago


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(directory):
    """Start a server that keeps nothing on disk; return its process and its port, 0 if somebody took that first."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--unixsocket", f"{directory}/redis.sock", "--save", ""]
    command += ["--dir", str(directory), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    for line in process.stdout:
        said += line
        if "eady to accept connections" in line:  # it listens to both by then
            return process, port
    with process:
        pass  # its output has ended, so it has
    assert "Address already in use" in said, said
    return process, 0


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """The addresses of one server, {"tcp": URL, "unix": URL}."""
    if shutil.which("redis-server") is None:
        pytest.skip("not installed: apt-get install redis-server")
    directory = tmp_path_factory.mktemp("redis")
    for _ in range(ATTEMPTS):
        process, port = start(directory)
        if port:
            break
    else:
        pytest.fail(f"no port stayed free, {ATTEMPTS} times")
    with process:
        yield {"tcp": f"redis://127.0.0.1:{port}", "unix": f"unix://{directory}/redis.sock"}
        process.send_signal(signal.SIGTERM)
        process.communicate()


@pytest.fixture(params=["tcp", "unix"])
def client_of(request, urls):
    """A factory of clients of an empty database; whoever makes one closes it."""

    async def make(**options):
        client = redis.from_url(urls[request.param], **options)
        await client.flushall()
        return client

    return make


def test_redis_values_of_all_sizes_come_back(run_program, client_of):
    """A reply of 1 MiB takes many reads, one of none is still a reply."""

    async def program():
        async with await client_of() as client:
            for size in (0, 1, 65_535, 65_536, MIB):
                value = bytes(i & 0xFF for i in range(256)) * (size // 256) + b"x" * (size % 256)
                assert await client.set("key", value) is True
                assert await client.get("key") == value

    run_program(program)


def test_redis_pipeline_and_transaction_keep_their_order(run_program, client_of):
    """A thousand commands in one write, and their replies in a few reads."""

    async def program():
        async with await client_of() as client:
            async with client.pipeline(transaction=False) as pipe:
                for i in range(1000):
                    pipe.set(f"key{i}", i).get(f"key{i}")
                replies = await pipe.execute()
            assert replies == [reply for i in range(1000) for reply in (True, b"%d" % i)]
            async with client.pipeline(transaction=True) as pipe:
                await pipe.watch("key1")
                pipe.multi()
                pipe.incr("key1").incr("key1")
                await client.set("key1", 100)  # by another connection, so that the transaction must not happen
                with pytest.raises(redis.WatchError):
                    await pipe.execute()
            assert await client.get("key1") == b"100"

    run_program(program)


def test_redis_many_tasks_share_few_connections(run_program, client_of):
    """A pool hands connections from task to task, which is where a reply goes to the wrong one."""

    async def program():
        client = await client_of(max_connections=4)
        pool = redis.BlockingConnectionPool(
            max_connections=4, connection_class=client.connection_pool.connection_class,
            **client.connection_pool.connection_kwargs,
        )  # fmt: skip

        async def one(i):
            await shared.set(f"key{i}", f"value{i}")
            return await shared.get(f"key{i}")

        async with client, redis.Redis.from_pool(pool) as shared:
            replies = await asyncio.gather(*(one(i) for i in range(200)))
        assert replies == [b"value%d" % i for i in range(200)]

    run_program(program)


def test_redis_published_messages_reach_each_subscriber_in_order(run_program, client_of):
    """A subscriber waits in a read for as long as nobody says anything, and is told while others write."""

    async def listen(client, name, subscribed):
        async with client.pubsub() as channel:
            await channel.subscribe(name)
            got = []
            async for message in channel.listen():
                if message["type"] == "subscribe":
                    subscribed.append(name)
                elif message["data"] == b"end":
                    break
                else:
                    got.append(int(message["data"]))
            await channel.unsubscribe(name)
            return got

    async def program():
        async with await client_of() as client:
            subscribed = []
            listeners = [asyncio.ensure_future(listen(client, f"room{i % 2}", subscribed)) for i in range(4)]
            while len(subscribed) < 4:
                await client.ping()  # a round trip at a time, so that the listeners get on
            for i in range(100):
                assert await client.publish(f"room{i % 2}", i) == 2
            for room in ("room0", "room1"):
                await client.publish(room, "end")
            heard = await asyncio.gather(*listeners)
            assert heard == [list(range(i % 2, 100, 2)) for i in range(4)]

    run_program(program)


def test_redis_cancelled_command_leaves_no_reply_to_the_next(run_program, client_of):
    """A connection whose reply nobody has read must not serve another command with it."""

    async def program():
        async with await client_of(single_connection_client=True) as client:
            await client.set("key", "value")
            waiting = asyncio.ensure_future(client.blpop("nothing", timeout=0))
            async with await client_of_other(client) as other:
                while (await other.info("clients"))["blocked_clients"] != 1:
                    pass
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                await other.rpush("nothing", "late")
            assert await client.get("key") == b"value"

    async def client_of_other(client):
        pool = client.connection_pool
        fresh = redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)
        return redis.Redis.from_pool(fresh)

    run_program(program)


def test_redis_time_outs_fire_and_the_client_goes_on(run_program, client_of):
    """asyncio's time-out cancels from outside, the library's own from inside."""

    async def program():
        async with await client_of() as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.blpop("nothing", timeout=0), 0.05)
            assert await client.ping() is True
        async with await client_of(socket_timeout=0.05, retry=None) as client:
            with pytest.raises(redis.TimeoutError):
                await client.blpop("nothing", timeout=0)
            assert await client.ping() is True

    run_program(program)


def test_redis_connection_that_the_server_has_closed_is_replaced(run_program, client_of):
    """The end of the stream comes between two commands or under the next one; who tries again survives both."""
    again = Retry(NoBackoff(), 1)

    async def program():
        async with await client_of(retry=again) as client, await client_of() as killer:
            victim = await client.client_id()
            assert await killer.client_kill_filter(_id=victim) == 1
            assert await client.ping() is True
            assert await client.client_id() != victim

    run_program(program)
