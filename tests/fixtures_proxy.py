"""A proxy in front of the S3 server that answers late, or refuses; it counts requests, how many wait at once, bytes."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

_CHUNK_BYTES = 1 << 16
_READS, _WRITES = (b"GET", b"HEAD"), (b"PUT", b"POST", b"DELETE")


class SlowProxy:
    """Passes bytes on to a server, each request `delay_s` late."""

    def __init__(self, endpoint: str, delay_s: float) -> None:
        self.delay_s = delay_s
        self.refused: dict[bytes, str] = {}
        """Method -> status line that it is answered with instead of being passed on."""
        self.num_refused = 0
        self.num_unconnected = 0
        """Requests for which there was no server to pass them to."""
        self.num_requests = self.num_waiting = self.most_waiting = 0
        self.num_bytes = 0
        """Bytes of the answers."""
        self.num_to_cut_off = 0
        """So many of the next answers never arrive: the store has done what it was asked for, the connection breaks."""
        self._target = urlsplit(endpoint)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def refuse(self, status: str, *, reads: bool = True, writes: bool = True) -> None:
        """From now on answer with a status such as "503 Service Unavailable"."""
        self.refused = dict.fromkeys((_READS if reads else ()) + (_WRITES if writes else ()), status)

    def accept(self) -> None:
        """From now on pass everything on again."""
        self.refused = {}

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        self._server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                up_reader, up_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
            except ConnectionError:
                self.num_unconnected += 1
                raise
            await asyncio.gather(self._requests(reader, up_writer, writer), self._answers(up_reader, writer))
        writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            method = data.split(b" ", 1)[0]
            if method in _READS + _WRITES:
                self.num_requests += 1
                self.num_waiting += 1
                self.most_waiting = max(self.most_waiting, self.num_waiting)
                await asyncio.sleep(self.delay_s)
                self.num_waiting -= 1
                if method in self.refused:
                    await self._refuse(self.refused[method], reader, writer)
                    break
            up_writer.write(data)
            await up_writer.drain()
        up_writer.write_eof()

    async def _refuse(self, status: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer, and throw away what the request still sends."""
        self.num_refused += 1
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        while await reader.read(_CHUNK_BYTES):
            pass

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                self.num_bytes += len(data)
                if self.num_to_cut_off:
                    self.num_to_cut_off -= 1
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@pytest.fixture
def slow_store(s3_environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowProxy]:
    """Return a proxy that makes each request to the S3 server take 100 ms longer; the environment points at it."""
    proxy = SlowProxy(s3_environment.endpoint, delay_s=0.1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    yield proxy
    proxy.close()
