"""HAProxy's files on disk: whole or not at all, private, and bounded in number."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from orbitcontrol.atomicfile import replace_file
from orbitcontrol.errors import HAProxyError
from orbitcontrol.haproxy.files import contents_name, keep_backup, prune, write_files
from orbitcontrol.haproxy.proxy import HAProxy, HAProxySettings
from orbitcontrol.model.configuration import ProxyConfiguration
from support.haproxy_homes import HAProxyHome

pytestmark = pytest.mark.integration


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_file_is_replaced_whole_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as reader:
        replace_file(path, b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert mode(path) == 0o600
    assert names(tmp_path) == {"haproxy.cfg"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").mkdir()  # what rename refuses to replace
    with pytest.raises(OSError, match=r"haproxy\.cfg"):
        replace_file(tmp_path / "haproxy.cfg", b"new")
    assert names(tmp_path) == {"haproxy.cfg"}


def test_three_backups_are_kept_and_the_same_content_once(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    for number in range(6):
        replace_file(config, str(number).encode())
        keep_backup(config)
        keep_backup(config)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "haproxy.cfg": "5",
        "haproxy.cfg.1": "5",
        "haproxy.cfg.2": "4",
        "haproxy.cfg.3": "3",
    }


def test_files_lie_in_a_directory_named_after_their_contents(tmp_path: Path) -> None:
    one, two = {"a.pem": "1"}, {"a.pem": "2"}
    assert contents_name(one) != contents_name(two)
    assert contents_name({"a": "bc"}) != contents_name({"ab": "c"})
    write_files(tmp_path / "certs" / contents_name(one), one)
    write_files(tmp_path / "certs" / contents_name(two), two)
    path = tmp_path / "certs" / contents_name(one) / "a.pem"
    assert path.read_text() == "1"
    assert (mode(path), mode(path.parent), mode(path.parent.parent)) == (0o600, 0o700, 0o700)


def test_a_file_that_somebody_changed_is_mended(tmp_path: Path) -> None:
    write_files(tmp_path / "certs" / contents_name({"a.pem": "1"}), {"a.pem": "1"})
    path = tmp_path / "certs" / contents_name({"a.pem": "1"}) / "a.pem"
    path.write_text("tampered")
    write_files(tmp_path / "certs" / contents_name({"a.pem": "1"}), {"a.pem": "1"})
    assert path.read_text() == "1"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\0b", "x" * 300])
def test_a_name_that_is_not_one_path_component_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(HAProxyError, match="single path component"):
        write_files(tmp_path / "certs" / "new", {"good.pem": "1", name: "2"})
    assert not (tmp_path / "certs").exists()


def test_only_our_own_directories_that_nothing_names_are_removed(tmp_path: Path) -> None:
    certs, config = tmp_path / "certs", tmp_path / "haproxy.cfg"
    sets = [{"a.pem": str(number)} for number in range(3)]
    for each in sets:
        write_files(certs / contents_name(each), each)
    (certs / "letsencrypt").mkdir()
    (certs / "own.pem").write_text("mine")
    config.write_text(f"crt {certs}/{contents_name(sets[0])}/a.pem\n")
    (tmp_path / "haproxy.cfg.2").write_text(f"crt {certs}/{contents_name(sets[1])}/a.pem\n")
    prune(certs, config)
    kept = {contents_name(sets[0]), contents_name(sets[1]), "letsencrypt", "own.pem"}
    assert names(certs) == kept


async def test_what_the_file_system_refuses_names_the_file(haproxy_home: HAProxyHome) -> None:
    haproxy_home.config.mkdir()
    configuration = ProxyConfiguration(tag="lb", template="")
    with pytest.raises(HAProxyError, match=r"haproxy\.cfg"):
        await haproxy_home.adapter().apply("global\n", configuration)


def test_the_first_runtime_socket_that_matches_is_told_to_templates(tmp_path: Path) -> None:
    proxy = HAProxy(HAProxySettings(config_dir=tmp_path, socket=str(tmp_path / "*.sock")))
    with pytest.raises(HAProxyError, match=r"--haproxy-socket: nothing matches .*\*\.sock"):
        _ = proxy.socket
    for name in ("b.sock", "a.sock"):
        (tmp_path / name).touch()
    assert proxy.socket == str(tmp_path / "a.sock")
    assert HAProxy(HAProxySettings(config_dir=tmp_path, socket="/run/x.sock")).socket == "/run/x.sock"
    assert HAProxy(HAProxySettings(config_dir=tmp_path / "[a]")).socket == str(tmp_path / "[a]/haproxy.sock")
