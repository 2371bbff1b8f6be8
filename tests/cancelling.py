"""How does a test cancel a task at each point at which it waits?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Did = TypeVar("Did")


@dataclass
class CancelledAt(Generic[Did]):
    """Waits for something, and has its own task cancelled when that hands over to the loop for the ``at``-th time."""

    waiting: Coroutine[Any, Any, Did]
    at: int
    was_cancelled: bool = False

    def __await__(self) -> Generator[Any, Any, Did]:
        steps, thrown = 0, None
        while True:
            try:
                future = self.waiting.throw(thrown) if thrown is not None else self.waiting.send(None)
            except StopIteration as ended:
                result: Did = ended.value
                return result
            thrown = None
            if steps == self.at:
                task = asyncio.current_task()
                assert task is not None
                self.was_cancelled = task.cancel()
            steps += 1
            try:
                yield future
            except BaseException as error:
                thrown = error


async def cancelled_at(
    act: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[None]], at: int
) -> bool:
    """Do something, cancelled at its ``at``-th wait, and check; tell whether it waited so often."""
    one = CancelledAt(act(), at)

    async def run() -> Any:
        return await one

    outcome: Any
    (outcome,) = await asyncio.gather(asyncio.ensure_future(run()), return_exceptions=True)
    if isinstance(outcome, Exception) or (isinstance(outcome, BaseException) and not one.was_cancelled):
        outcome.add_note(f"cancelled at wait {at}: {one.was_cancelled}")
        raise outcome
    outcome = repr(outcome)  # its frames hold what the task had
    try:
        await check()
    except BaseException as error:
        error.add_note(f"cancelled at wait {at}, which ended with {outcome}")
        raise
    return one.was_cancelled


async def cancelled_everywhere(
    act: Callable[[], Coroutine[Any, Any, Any]], check: Callable[[], Awaitable[None]], most: int = 300
) -> int:
    """Do something again and again, cancelled at its first wait, its second, and so on, and check after each.

    Ends with the first time that it is not cancelled; returns how often it was.
    """
    for at in range(most):
        if not await cancelled_at(act, check, at):
            return at
    raise AssertionError(f"still cancelled after {most} waits")
