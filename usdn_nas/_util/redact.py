"""Keeps passwords out of messages and files: storage URLs are shown and written with ``***`` in place of passwords."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

__all__ = ["MASK", "holds_secret", "masked_url", "secrets_of", "without_credentials"]

MASK = "***"

_URL = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^:/@?]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<place>(?:\[[^]/?@]*\]|[^:/?@]*)(?::\d*)?(?:/[^?@]*)?)(?:\?(?P<query>[^@]*))?",
    re.DOTALL,
)
"""The parts of a URL as SQLAlchemy divides it. A URL with a second ``@`` does not match.

A second ``@`` belongs to a password that is not percent-encoded.
"""

_FILE = re.compile(
    r"(?P<scheme>sqlite(\+pysqlite)?)://(?P<user>(?!))?(?P<password>(?!))?(?P<place>/[^?]*)(\?(?P<query>.*))?",
    re.DOTALL,
)
"""The URL of an SQLite file, whose name may contain ``@``."""

_HARMLESS = {"application_name", "charset", "connect_timeout", "host", "mode", "port", "sslmode", "timeout", "uri"}
"""Query parameters whose values are shown. The value of any other one may be a secret."""

_CREDENTIALS = re.compile(r"://(?![^@]*:\*\*\*@[^@]*$).*@", re.DOTALL)
_PARAMETER = re.compile(r"((?:password|passwd|pwd|passphrase|secret|token)\w*=)[^&\s'\",;]+", re.IGNORECASE)


def masked_url(text: str) -> str:
    """Returns a storage as it may be shown and written: with ``***`` for the password and for unknown query values.

    A path and ``env:NAME`` hold no secret and are returned unchanged. For a URL that cannot be read, the result is
    ``***`` alone.
    """
    if "://" not in text:
        return text if re.fullmatch(r"env:\w+|[^@=:]*|.*\.(journal|log)", text) else MASK
    found = _readable(text)
    if found is None:
        return MASK
    shown = f"{found['scheme']}://"
    if found["user"] is not None:
        shown += found["user"] + (f":{MASK}" if found["password"] is not None else "") + "@"
    shown += found["place"]
    return shown if found["query"] is None else f"{shown}?{'&'.join(map(_masked_parameter, found['query'].split('&')))}"


def holds_secret(text: str) -> bool:
    """True if `masked_url` replaces something in ``text``, or has already done so."""
    return masked_url(text) != text or MASK in text


def secrets_of(url: str) -> tuple[str, ...]:
    """Returns the secret parts of a URL, as written and decoded, longest first. Empty if the URL cannot be read."""
    found = _readable(url)
    if found is None:
        return ()
    values = [found["password"] or ""]
    for parameter in (found["query"] or "").split("&"):
        name, _, value = parameter.partition("=")
        values.append("" if name in _HARMLESS else value)
    every = {form for value in values for form in (value, unquote(value), unquote_plus(value)) if form}
    return tuple(sorted(every, key=len, reverse=True))


def without_credentials(text: str) -> str:
    """Returns a message with ``***`` for text that looks like credentials of a URL or like a password parameter.

    It is the last safety net: secrets should have been removed before.
    """
    return _PARAMETER.sub(rf"\1{MASK}", _CREDENTIALS.sub(f"://{MASK}@", text))


def _readable(url: str) -> re.Match[str] | None:
    return _FILE.fullmatch(url) or _URL.fullmatch(url)


def _masked_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    return parameter if name in _HARMLESS or not value else f"{name}{equals}{MASK}"
