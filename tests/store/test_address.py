"""URLs of databases: which are taken, which are refused, and that no password is ever in a text."""

import pytest
from postgres import PASSWORD, SECRETS
from sqlalchemy.exc import OperationalError

from tuner.errors import StoreError
from tuner.store.address import Address


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_spoken_to_through_psycopg_3(scheme):
    url = Address.of(f"{scheme}://me@host/db").url
    assert (url.drivername, url.host, url.database) == ("postgresql+psycopg", "host", "db")


REFUSED = {
    "nonsense": "is a database URL",
    "postgresql://me:hush@host:port/db": "is a database URL",
    "postgresql://me:hu@sh@host/db": "second @",
    "postgresql://me:hu@sh:x@host/db": "is a database URL",
    "postgresql+psycopg2://me:hush@host/db": "through psycopg 3",
    "postgresql+asyncpg://me:hush@host/db": "through psycopg 3",
    "sqlite://": "names a file",
    "sqlite:///:memory:": "names a file",
}


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_cannot_be_meant_is_refused_without_being_repeated(url):
    with pytest.raises(StoreError, match=REFUSED[url]) as caught:
        Address.of(url)
    assert "hush" not in str(caught.value)
    assert "sh@" not in str(caught.value)


WITH_PASSWORDS = [
    f"postgresql://me:{SECRETS[1]}@host/db",
    f"postgresql://me@host/db?password={SECRETS[1]}&sslmode=require",
    f"postgresql://me@host/db?sslmode=require&sslpassword={SECRETS[1]}",
]


@pytest.mark.parametrize("url", WITH_PASSWORDS)
def test_no_form_of_a_password_is_in_any_text(url):
    address = Address.of(url)
    said = f'FATAL: neither "{PASSWORD}" nor {SECRETS[1]}\nnor more'
    error = OperationalError("SELECT 1", {}, Exception(said))
    for text in (str(address), repr(address), address.cause(error), address.sentence(error), address.hidden(said)):
        assert not any(secret in text for secret in SECRETS)
    assert "nor more" not in address.cause(error), "one line"
    assert "***" in str(address)
    bare = address.without_password.render_as_string(hide_password=False)
    assert not any(secret in bare for secret in SECRETS)
    assert PASSWORD in {address.url.password, address.url.query.get("sslpassword")}, "it is still used"


SAID = {
    'connection failed: FATAL:  password authentication failed for user "me"': "Mend the user, the password",
    'FATAL:  database "nothing" does not exist': "createdb",
    "failed to resolve host 'nowhere': [Errno -2] Name or service not known": "Mend the host",
    "connection failed: Connection refused": "Is a PostgreSQL server running there",
    "FATAL:  the database system is starting up": "Call again when",
    "database is locked": "Another program is writing",
    "database or disk is full": "with room left",
}


@pytest.mark.parametrize("said", SAID)
def test_an_error_comes_with_what_to_do(said):
    assert SAID[said] in Address.of("postgresql://me@host/db").sentence(Exception(said))
