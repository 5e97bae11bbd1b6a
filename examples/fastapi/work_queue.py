"""Limits for a service whose requests take much time or memory: a queue, a time limit, and a maximum size."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

T = TypeVar("T")

RETRY_AFTER = 1
"""Seconds after which a client may try again if the queue is full."""

MAX_SECONDS = 30
"""Maximum time for sending a response, so that clients that read slowly do not fill the queue."""

PIECE_BYTES = 2**16


class WorkQueue:
    """Queue of requests whose work runs in threads.

    A request is in the queue until its response has been sent, which limits the memory that all requests take. Its
    work is a series of short steps, such as decoding a few images. The steps of all requests take turns.

    Args:
        max_requests: Maximum number of requests in the queue. Further requests get the status 503.
        threads: Maximum number of steps at a time.
    """

    def __init__(self, max_requests: int, threads: int) -> None:
        self._max_requests = max_requests
        self._requests = 0
        self._turns = asyncio.Semaphore(threads)

    async def place(self) -> AsyncIterator[None]:
        """Keep a place in the queue for a request. This is a dependency of a path operation.

        Raises:
            HTTPException: With the status 503, if the queue is full.
        """
        if self._requests >= self._max_requests:
            raise HTTPException(503, "too many requests; try again later", {"Retry-After": str(RETRY_AFTER)})
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def run(self, request: Request, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread, when it is this request's turn.

        Raises:
            ClientDisconnect: If the client has disconnected. The function is not called then.
        """
        async with self._turns:
            if await request.is_disconnected():
                raise ClientDisconnect
            return await run_in_threadpool(function, *args)


class TimedResponse(StreamingResponse):
    """Response that is sent in pieces, and broken off after `MAX_SECONDS`.

    The next piece is made only when the client has received most of the one before it.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(MAX_SECONDS):
                await super().__call__(scope, receive, send)
        except (TimeoutError, ClientDisconnect):  # the server then closes the connection
            pass


def slices(data: bytes) -> Iterator[bytes]:
    """Yield slices of at most 64 KB."""
    return (data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))


class MaxBodySize:
    """Middleware that rejects requests with a large body with the status 413, before all of it is in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise HTTPException(413, f"the request has more than {self.max_bytes:,} bytes")
            return message

        await self.app(scope, receive_limited, send)
