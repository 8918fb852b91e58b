"""Many changes of a study in one transaction of Optuna's database storage, which commits each by itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from optuna.storages import RDBStorage

__all__ = ["one_transaction"]

_LOCK = threading.RLock()


class _Joined:
    """A session that leaves commit and close to the transaction it has joined."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def commit(self) -> None:
        self._session.flush()

    def close(self) -> None:
        pass


@contextlib.contextmanager
def one_transaction(storage: RDBStorage) -> Iterator[None]:
    """What this thread does with ``storage`` within is committed when it ends, or not at all.

    Optuna asks ``storage.scoped_session`` for a session at every change and commits it after; within, this thread
    gets one and the same session. Other threads get theirs.
    """
    own = storage.scoped_session
    with _LOCK:
        session, thread = own(), threading.get_ident()
        joined = _Joined(session)
        storage.scoped_session = lambda: (  # type: ignore[assignment]
            joined if threading.get_ident() == thread else own()
        )
        try:
            yield
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            storage.scoped_session = own
            session.close()
