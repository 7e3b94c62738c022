"""Who the worker is to its backends: static credentials, and OAuth tokens that the whole fleet shares."""

from worker.auth.credentials import ClientCredentials, Credential, Ticket, open_credential
from worker.auth.store import MemoryTokenStore, TokenStore
from worker.auth.token import Token

__all__ = ["ClientCredentials", "Credential", "MemoryTokenStore", "Ticket", "Token", "TokenStore", "open_credential"]
