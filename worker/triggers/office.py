"""What the desk needs done."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from worker.amqp import Message
from worker.ledger import Standing
from worker.triggers.requests import Request


class Office(Protocol):
    """Who acts on what the desk finds out; called on its thread."""

    def meet(self, message: Message) -> Request | None:
        """A message as a request; None if that was its end."""

    def room(self, queue: str) -> int:
        """How many requests of a queue may be handed out whose end the ledger does not know."""

    def prompt(self, queue: str) -> bool:
        """Whether a queue's requests are over sooner than a call would be."""

    def run(self, requests: list[Request]) -> None:
        """Run these, each if the desk lets it begin once there is a thread for it."""

    def gathered(self) -> AbstractContextManager[None]:
        """Send what is answered in the ``with`` at its end."""

    def judge(self, request: Request, standing: Standing) -> None:
        """Answer what is not to be run: it was done or failed, or is a conflict."""

    def clash(self, message: Message) -> None:
        """Answer a message with the id of another one, and another body."""

    def nudge(self) -> None:
        """Some are under way: see that none waits behind another for long."""
