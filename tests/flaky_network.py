"""A network that can be told to misbehave: a TCP proxy on loopback, for tests of real processes."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE_BYTES = 16 * 1024


@dataclass
class FlakyNetwork:
    """Passes connections on to `target_port`; the attributes can be changed at any time.

    Attributes:
        target_port: where the connections really go.
        port: where it listens.
        down: refuses new connections and cuts those that are there.
        delay_s: before every piece that is passed on.
        cut_after_bytes: each connection is cut once so many bytes went up; none: never.
        cuts: how many connections were cut.
        bytes_up: how many bytes went up in all.
    """

    target_port: int
    port: int = 0
    down: bool = False
    delay_s: float = 0.0
    cut_after_bytes: int | None = None
    cuts: int = 0
    bytes_up: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways, until one side ends it or it is cut."""
        if self.down:
            self.cuts += 1
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, far_writer}
        up = asyncio.ensure_future(self._pass_on(reader, far_writer, is_up=True))
        down = asyncio.ensure_future(self._pass_on(far_reader, writer, is_up=False))
        try:
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in (writer, far_writer):
                one.transport.abort() if self.down else one.close()
            self._open -= {writer, far_writer}
            await asyncio.gather(up, down, return_exceptions=True)
            for one in (writer, far_writer):
                with suppress(OSError):
                    await one.wait_closed()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool
    ) -> None:
        passed = 0
        with suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                passed += len(piece)
                self.bytes_up += len(piece) * is_up
                limit = self.cut_after_bytes
                if self.down or (is_up and limit is not None and passed > limit):
                    self.cuts += 1
                    break
                writer.write(piece)
                await writer.drain()

    async def watch(self) -> None:
        """Cuts idle connections too, when the network goes down."""
        while True:
            await asyncio.sleep(0.05)
            if self.down:
                for writer in tuple(self._open):
                    writer.transport.abort()


@contextmanager
def flaky_network(target_port: int) -> Iterator[FlakyNetwork]:
    """Runs one in a thread."""
    network, loop, ready = FlakyNetwork(target_port), asyncio.new_event_loop(), threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(network.carry, "127.0.0.1", 0)
        network.port = server.sockets[0].getsockname()[1]
        watching = asyncio.ensure_future(network.watch())
        ready.set()
        await stopping.wait()
        server.close()
        network.down = True
        await asyncio.sleep(0.1)  # the watch cuts what is open, and each connection clears up
        watching.cancel()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*rest, return_exceptions=True)

    stopping = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield network
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
