from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orbitcontrol.errors import UsageError
from orbitcontrol.store.open import open_store
from orbitcontrol.store.settings import EtcdAddress, EtcdSettings, SqliteAddress, parse_address


@pytest.mark.parametrize(
    ("url", "endpoints", "tls"),
    [
        ("etcd://10.0.0.1:2379", ("10.0.0.1:2379",), False),
        ("etcd://a:2379,b:2380", ("a:2379", "b:2380"), False),
        ("etcd://a", ("a:2379",), False),
        ("etcd://[::1]:2379,[fe80::1]", ("[::1]:2379", "[fe80::1]:2379"), False),
        ("http://127.0.0.1:2379", ("127.0.0.1:2379",), False),
        ("http://127.0.0.1:2379/", ("127.0.0.1:2379",), False),
        ("http://a:2379,http://b:2379", ("a:2379", "b:2379"), False),
        ("http://a:2379,b:2379", ("a:2379", "b:2379"), False),
        ("https://a:2379, https://b:2379", ("a:2379", "b:2379"), True),
    ],
)
def test_etcd_is_written_in_these_ways(url: str, endpoints: tuple[str, ...], *, tls: bool) -> None:
    assert parse_address(url) == EtcdAddress(endpoints, tls)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/orbitctl/store.db", "/var/lib/orbitctl/store.db"),
        ("sqlite:///tmp/with%20blank.db", "/tmp/with blank.db"),
    ],
)
def test_sqlite_is_written_as_an_absolute_path(url: str, path: str) -> None:
    assert parse_address(url) == SqliteAddress(path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "10.0.0.1:2379",
        "etcd:/a:2379",
        "etcd://",
        "etcd://a:2379,",
        "etcd://a:port",
        "etcd://a:0",
        "etcd://a:99999",
        "etcd://:2379",
        "etcd://::1:2379",
        "etcd://user@a:2379",
        "etcd://a:2379/path",
        "http://a:2379,https://b:2379",
        "consul://a:8500",
        "sqlite://store.db",
        "sqlite:///",
        "sqlite:///var/lib/",
        "sqlite:relative.db",
    ],
)
def test_anything_else_is_a_usage_error_that_says_what_is_accepted(url: str) -> None:
    with pytest.raises(UsageError, match=r"etcd://HOST:2379.*sqlite:///PATH") as wrong:
        open_store(url)
    assert repr(url) in str(wrong.value)


def test_a_password_needs_a_user_and_a_certificate_its_key() -> None:
    with pytest.raises(UsageError, match="password"):
        open_store("etcd://a", user="root")
    with pytest.raises(UsageError, match="key"):
        open_store("etcd://a", cert="/cert.pem")
    with pytest.raises(UsageError, match="no user"):
        open_store("sqlite:///tmp/store.db", user="root", password="x")


def test_settings_do_not_print_their_password() -> None:
    settings = EtcdSettings(endpoints=("a:2379",), user="root", password="secret")
    assert "secret" not in f"{settings} {settings!r}"


@pytest.mark.parametrize("given", [{"tls": True}, {"ca": "/ca"}, {"cert": "/cert", "key": "/key"}])
def test_tls_is_on_when_anything_of_it_is_given(given: dict[str, str]) -> None:
    assert EtcdSettings(endpoints=("a:2379",), **given).encrypted  # type: ignore[arg-type]
    assert not EtcdSettings(endpoints=("a:2379",)).encrypted


def test_opening_touches_nothing(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/below/store.db")
    assert store.address == f"sqlite://{tmp_path}/below/store.db"
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_can_check_a_url_without_loading_a_store() -> None:
    code = (
        "import sys, orbitcontrol.store.open\n"
        "print([name for name in ('grpc', 'google.protobuf', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
