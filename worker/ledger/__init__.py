"""The durable memory: deliveries, messages, tokens, job state. SQLite for one machine, PostgreSQL for a fleet.

Times are seconds since 1970 by the database's own clock, so that several hosts agree. Every change of hands is one
guarded UPDATE (``version``), never a lock or a transaction held while something else is waited for.
"""

from worker.ledger.deliveries import Ledger
from worker.ledger.messages import PRUNED, Claim, End, Messages, Note, Standing

__all__ = ["PRUNED", "Claim", "End", "Ledger", "Messages", "Note", "Standing"]
