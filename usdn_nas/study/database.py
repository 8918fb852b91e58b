"""Optuna's database storage, extended by transactions of many changes and by repeats when the connection is lost.

Optuna commits every change by itself, and raises an error if the server cannot be reached. Here a thread may make many
changes in one transaction, and `Patience` repeats every access that fails. A transaction is repeated as a whole or not
at all.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from usdn_nas._util.errors import UserError
from usdn_nas.study.patience import BrokenTransactionError, Patience

__all__ = ["Database"]

F = TypeVar("F", bound=Callable[..., Any])

_LOCK = threading.RLock()

_CONNECT_TIMEOUT_S = 10
"""Limit for opening a connection, so that a server that accepts it but never answers cannot block a search."""


def _engine_settings(url: str) -> dict[str, Any]:
    from sqlalchemy import make_url

    found = make_url(url)
    libpq = found.get_backend_name() == "postgresql" and found.get_driver_name() in ("psycopg", "psycopg2")
    if libpq and "connect_timeout" not in found.query:
        return {"connect_args": {"connect_timeout": _CONNECT_TIMEOUT_S}}
    return {}


class Database(RDBStorage):
    """Optuna's storage in the database at a URL.

    Args:
        url: URL in the form of SQLAlchemy.
        patience: Says how long failed accesses are repeated, and reports it.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self.patience = patience
        # When a connection is lost, Optuna falls back to a slower query and warns of it.
        logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)
        with patience.impatient():  # the caller decides whether the opening is repeated
            super().__init__(url.replace("{", "{{").replace("}", "}}"), _engine_settings(url))

    @contextlib.contextmanager
    def one_transaction(self) -> Iterator[None]:
        """Makes all changes of this thread inside the block one transaction, which is committed when the block ends.

        Optuna gets a session from ``scoped_session`` for every change, and commits it afterwards. Inside the block this
        thread always gets the same session. Other threads get their own.
        """
        with _LOCK:
            own = self.scoped_session
            session, thread = own(), threading.get_ident()
            joined = _Joined(session)
            self.scoped_session = lambda: (  # type: ignore[assignment]
                joined if threading.get_ident() == thread else own()
            )
            try:
                yield
                joined.commit_all()
            except BaseException:
                with contextlib.suppress(Exception):  # a lost connection cannot be rolled back; the server does it
                    session.rollback()
                raise
            finally:
                self.scoped_session = own
                session.close()

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Creates a trial in a single attempt.

        Optuna itself makes up to five attempts. It would create a second trial if only the acknowledgement of the
        first was lost. Callers in this package look for the first one before they try again.
        """
        with self.one_transaction():
            return super()._create_new_trial(study_id, template_trial)


class _Joined:
    """A session that takes part in a transaction, and leaves commit and close to that transaction.

    When a change fails, Optuna rolls back and sometimes continues. Here a rollback undoes the whole transaction, which
    is broken from then on: every further use raises `BrokenTransactionError`.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._broken: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        if self._broken is not None:
            self._raise()
        return getattr(self._session, name)

    def commit(self) -> None:
        try:
            self._session.flush()
        except Exception as error:
            self._broken = error
            raise

    def rollback(self) -> None:
        self._broken = self._broken or sys.exception() or BrokenTransactionError("a change was rolled back")
        self._session.rollback()

    def close(self) -> None:
        pass

    def commit_all(self) -> None:
        if self._broken is not None:
            self._raise()
        self._session.commit()

    def _raise(self) -> NoReturn:
        raise BrokenTransactionError("the transaction failed") from self._broken


_REPEATABLE = (
    "create_new_study",
    "get_all_studies",
    "get_all_trials",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_system_attr",
    "set_trial_user_attr",
    "_get_best_trial_id",
    "_get_trials",
)
"""Methods that may safely run twice. The other methods are called inside work that is repeated as a whole."""

_LOOKING = ("get_study_id_from_name", "get_study_name_from_id", "get_trial", "get_trial_id_from_study_id_trial_number")
"""Methods that raise `KeyError` if there is no such study or trial."""


def _repeated(method: F) -> F:
    @functools.wraps(method)
    def patient(self: Database, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.patience.run(lambda: method(self, *args, **kwargs))
        except (LookupError, ValueError, TypeError, AttributeError, AssertionError) as error:
            if isinstance(error, KeyError) and method.__name__ in _LOOKING:
                raise
            # SQLAlchemy and Optuna do not check rows, so that a damaged row may raise any of these errors.
            raise UserError(
                f"the database is damaged: {type(error).__name__}: {error}",
                where=self.patience.place,
                remedy="put back a copy of it, or search again in another one",
            ) from None

    return patient  # type: ignore[return-value]


for _name in _REPEATABLE:
    setattr(Database, _name, _repeated(getattr(RDBStorage, _name)))
