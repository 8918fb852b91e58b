"""No part of a password is shown or written."""

from __future__ import annotations

import pytest

from usdn_nas._util.errors import RunError, UserError
from usdn_nas._util.redact import MASK, holds_secret, masked_url, secrets_of, without_credentials
from usdn_nas.config import SearchConfig, StudyConfig

SECRETS = {
    "postgresql://me:hunter2@db.example:5432/nas": "postgresql://me:***@db.example:5432/nas",
    "postgresql://me:hun%40ter2@db/nas": "postgresql://me:***@db/nas",
    "postgresql://me:hun:ter2@db/nas": "postgresql://me:***@db/nas",
    "postgresql://me:hun/ter2@db/nas": "postgresql://me:***@db/nas",
    "postgresql://me:hun?ter2@db/nas": "postgresql://me:***@db/nas",
    "postgresql://:hunter2@db/nas": "postgresql://:***@db/nas",
    "postgresql+psycopg://me@db/nas?sslmode=require&password=hunter2": (
        "postgresql+psycopg://me@db/nas?sslmode=require&password=***"
    ),
    "mssql+pyodbc://db/nas?odbc_connect=PWD%3Dhunter2": "mssql+pyodbc://db/nas?odbc_connect=***",
    # These cannot be read: nothing of them is shown.
    "postgresql://me:hun@ter2@db/nas": MASK,
    "postgresql://me/x:hunter2@db/nas": MASK,
    "postgresql://me:hunter2/nas": MASK,
    "postgresql://db/nas?password=hun@ter2": MASK,
    "postgresql:/me:hunter2@db/nas": MASK,
}
PLAIN = ["sqlite:///study.db", "sqlite:////data/a@b.db?timeout=30", "study.journal", "a@b/study.log", "env:NAS_DB"]


@pytest.mark.parametrize(("url", "shown"), SECRETS.items())
def test_secrets_are_masked(url: str, shown: str) -> None:
    assert masked_url(url) == shown and holds_secret(url)
    assert "hun" not in shown and "ter2" not in shown
    config = StudyConfig(space="x", search=SearchConfig(storage=url))
    for written in (config.model_dump_json(), str(config.model_dump()), repr(config)):
        assert "hun" not in written.replace("chun", "") and "ter2" not in written
    assert url in config.search.model_dump_json(context={"secrets": True})  # to a worker's process


@pytest.mark.parametrize("url", PLAIN)
def test_what_holds_no_secret_is_shown(url: str) -> None:
    assert masked_url(url) == url and not holds_secret(url) and secrets_of(url) == ()


def test_secrets_in_every_form() -> None:
    assert set(secrets_of("postgresql://me:a%40b@db/nas?key=c+d")) == {"a%40b", "a@b", "c+d", "c d"}


@pytest.mark.parametrize("kind", [UserError, RunError])
def test_no_message_of_ours_holds_credentials(kind: type[Exception]) -> None:
    line = str(kind("cannot open ['postgresql://me:hun@ter 2@db/nas'], password=hunter2 &c"))
    assert "hun" not in line and "ter" not in line and "db/nas" in line
    assert without_credentials("see https://example.org/a, b") == "see https://example.org/a, b"
    assert without_credentials("'postgresql://me:***@db/nas'") == "'postgresql://me:***@db/nas'"
