"""Reading a tree: what it becomes, and everything that is refused with its file and a remedy."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orbitcontrol.errors import TreeError
from orbitcontrol.model.service import HttpCheck
from orbitcontrol.model.stored import ETCD_LIMITS
from orbitcontrol.tree.load import load
from support.trees import LEGACY_TREE, TAGS, sound_tree, write_tree

UNUSABLE = "this link cannot be used"


def problems(root: Path, **options: Any) -> list[str]:
    return [str(problem) for problem in load(root, **options).problems]


def warnings(root: Path) -> list[str]:
    return [str(warning) for warning in load(root).warnings]


def test_a_sound_tree_has_no_findings_and_one_entry_for_each_file(tmp_path: Path) -> None:
    tree = load(sound_tree(tmp_path))
    assert tree.findings == ()
    assert tree.entries == {
        "services/web": (
            b'{"Checks":[{"Type":"http","Url":"http://${ENDPOINT_HOST}:${ENDPOINT_PORT}/"}],'
            b'"Container":{"Config":{"Env":["A=1"],"Image":"nginx:1"}},"EndpointPort":8080,"Name":"web"}'
        ),
        "tags/app/services/web": b"{}",
        "tags/lb/haproxy_config": b'{"Content":"global\\n"}',
    }
    assert tree.configuration.services["web"].endpoint_port == 8080
    assert tree.configuration.tags["lb"].template == "global\n"


def test_a_tree_of_the_older_implementation_loads() -> None:
    tree = load(LEGACY_TREE)
    assert tree.problems == ()
    (check,) = tree.configuration.services["ubuntu"].checks
    assert isinstance(check, HttpCheck)
    assert check.url == "http://127.0.0.1:3500/check"
    tag = tree.configuration.tags["testtag"]
    assert tag.authoritative_names == ("ubuntu",)
    assert tag.haproxy_files.keys() == {"500.http", "hello.txt"}
    assert tag.certs == {"test.pem": "----TEST-----\n"}
    assert sorted(finding.file.rpartition("/")[2] for finding in tree.warnings) == [
        "globalproperties.json",
        "test.json",
    ]


def test_spelling_and_order_of_a_file_do_not_change_its_entry(tmp_path: Path) -> None:
    web = {"checks": [], "NAME": "web", "container": {"config": {"image": "a"}}}
    one = write_tree(tmp_path / "one", {"services/web.json": web})
    other = write_tree(
        tmp_path / "other",
        {"services/web.json": '{"Container":{"Config":{"Image":"a"}},\n\n"Checks":[],"Name":"web"}'},
    )
    assert load(one).entries == load(other).entries


@pytest.mark.parametrize(
    "path",
    [
        "services/web.json",
        "globalproperties.json",
        f"{TAGS}/app/services/web.json",
        f"{TAGS}/app/authoritative_names.json",
    ],
)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"Name": "web",}', "line 1, column 15: remove this comma"),
        ("", "line 1, column 1: the file is empty"),
        ('{"a": 1, "a": 2}', 'line 1, column 10: "a" is here twice'),
        (b'{"Name": "\xff"}', "line 1: byte 0xff is not UTF-8"),
    ],
)
def test_bad_json_is_told_in_every_kind_of_file(
    tmp_path: Path, path: str, content: str | bytes, says: str
) -> None:
    (message,) = problems(sound_tree(tmp_path, **{path: content}))
    assert message.startswith(f"{path}: {says}")


def test_two_bad_files_and_all_faults_in_them_are_told_in_one_run(tmp_path: Path) -> None:
    root = sound_tree(
        tmp_path,
        **{
            "services/one.json": {"Name": "one", "EndpointPort": 99999, "Chekcs": []},
            "services/two.json": "{",
        },
    )
    assert problems(root) == [
        "services/one.json: Chekcs: unknown field; did you mean Checks?",
        "services/one.json: EndpointPort: must be from 0 to 65535, not 99999",
        "services/two.json: line 1, column 2: the file ends here, but the { of line 1 is not closed",
    ]


@pytest.mark.parametrize("name", ["..", "", "a b", "-a", ".web", "ünï", "a\nb"])
def test_a_service_file_with_a_name_that_nothing_can_have_is_a_problem(tmp_path: Path, name: str) -> None:
    (message,) = problems(sound_tree(tmp_path, **{f"services/{name}.json": {"Name": name}}))
    assert message.startswith("services/")
    assert "a service cannot be called so" in message
    assert "\n" not in message


def test_a_name_with_a_slash_is_a_problem(tmp_path: Path) -> None:
    (message,) = problems(sound_tree(tmp_path, **{"services/a.json": {"Name": "a/b"}}))
    assert message.startswith("services/a.json: Name: may hold letters, digits")


def test_a_name_that_is_not_the_files_is_a_problem(tmp_path: Path) -> None:
    root = sound_tree(tmp_path, **{"services/a.json": {"Name": "b"}})
    assert problems(root) == [
        'services/a.json: Name: is "b", but the file is called a.json; make them the same'
    ]


def test_a_binding_may_repeat_its_name_and_only_its_own(tmp_path: Path) -> None:
    binding = f"{TAGS}/app/services/web.json"
    assert problems(sound_tree(tmp_path / "right", **{binding: {"Name": "web"}})) == []
    (message,) = problems(sound_tree(tmp_path / "wrong", **{binding: {"Name": "bew"}}))
    assert message.startswith(f'{binding}: Name: is "bew"')


def test_service_and_tag_names_that_differ_only_in_case_are_problems(tmp_path: Path) -> None:
    root = sound_tree(
        tmp_path,
        **{"services/Web.json": {"Name": "Web", "Checks": []}, f"{TAGS}/APP/authoritative_names.json": []},
    )
    assert problems(root) == [
        f'{TAGS}/app: "app" and "APP" differ only in case; rename one of them',
        'services/web.json: "web" and "Web" differ only in case; rename one of them',
    ]


def test_a_binding_to_a_service_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    root = sound_tree(tmp_path, **{f"{TAGS}/app/services/webb.json": {}, f"{TAGS}/app/services/zzz.json": {}})
    near, far = problems(root)
    assert near == f'{TAGS}/app/services/webb.json: there is no service "webb"; did you mean web?'
    assert far.startswith(f'{TAGS}/app/services/zzz.json: there is no service "zzz"; write services/zzz.json')


def test_a_service_with_a_fault_is_no_fault_of_its_bindings(tmp_path: Path) -> None:
    assert len(problems(sound_tree(tmp_path, **{"services/web.json": "{"}))) == 1


def test_files_for_a_template_without_one_are_problems(tmp_path: Path) -> None:
    root = sound_tree(tmp_path, **{f"{TAGS}/app/certs/a.pem": "x", f"{TAGS}/app/haproxy_files/b": "x"})
    advice = "these files are for a template, but this tag has no haproxy.tpl; add one, or remove them"
    assert problems(root) == [f"{TAGS}/app/certs: {advice}", f"{TAGS}/app/haproxy_files: {advice}"]


def test_a_template_that_cannot_be_read_is_the_only_problem_of_its_tag(tmp_path: Path) -> None:
    root = sound_tree(tmp_path, **{f"{TAGS}/lb/haproxy.tpl": b"\xff", f"{TAGS}/lb/haproxy_files/a": "x"})
    assert problems(root) == [
        f"{TAGS}/lb/haproxy.tpl: line 1: byte 0xff is not UTF-8; save the file as UTF-8 text"
    ]


def test_stray_files_and_folders_are_told_and_ignored(tmp_path: Path) -> None:
    strays = {
        "service/web.json": {},
        "notes.txt": "x",
        "services/web.yaml": "x",
        "services/old/web.json": {},
        "machineconfigurations/other/x": "x",
        f"{TAGS}/app/haproxy.tlp": "x",
        f"{TAGS}/loose.json": {},
        f"{TAGS}/lb/haproxy_files/sub/file": "x",
    }
    tree = load(sound_tree(tmp_path, **strays))
    assert tree.problems == ()
    assert tree.entries == load(sound_tree(tmp_path / "sound")).entries
    assert [str(warning) for warning in tree.warnings] == [
        "machineconfigurations/other: ignored: only tags belong here",
        f"{TAGS}/app/haproxy.tlp: ignored: did you mean haproxy.tpl?",
        f"{TAGS}/lb/haproxy_files/sub: ignored: only files are read here",
        f"{TAGS}/loose.json: ignored: a tag is a folder",
        "notes.txt: ignored: only globalproperties.json, services, machineconfigurations belong here",
        "service: ignored: did you mean services?",
        "services/old: ignored: files here end in .json",
        "services/web.yaml: ignored: files here end in .json",
    ]


def test_what_every_repository_has_is_not_worth_a_word(tmp_path: Path) -> None:
    common = {
        ".git/config": "x",
        ".gitignore": "x",
        "README.md": "x",
        "services/.gitkeep": "",
        f"{TAGS}/lb/certs/.gitkeep": "",
    }
    assert load(sound_tree(tmp_path, **common)).findings == ()


def test_a_json_file_whose_name_begins_with_a_dot_is_read(tmp_path: Path) -> None:
    (message,) = problems(sound_tree(tmp_path, **{"services/.hidden.json": "{"}))
    assert message.startswith("services/.hidden.json: ")


class TestLinks:
    @pytest.fixture
    def outside(self, tmp_path: Path) -> Path:
        return write_tree(tmp_path / "outside", {"web.json": {"Name": "web"}, "app/services/web.json": {}})

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return sound_tree(tmp_path / "tree")

    @pytest.mark.parametrize(
        ("link", "target"),
        [
            ("services/extra.json", "web.json"),
            (f"{TAGS}/extra", "app"),
            (f"{TAGS}/lb/haproxy_files", "app"),
            (f"{TAGS}/lb/certs", "app"),
            (f"{TAGS}/lb/authoritative_names.json", "web.json"),
            ("globalproperties.json", "web.json"),
        ],
    )
    def test_a_link_that_leaves_the_tree_is_a_problem(
        self, root: Path, outside: Path, link: str, target: str
    ) -> None:
        (root / link).symlink_to(outside / target)
        assert problems(root) == [
            f"{link}: {UNUSABLE}: it leaves the tree (to {outside / target}); put the file itself here"
        ]

    def test_a_folder_of_the_layout_that_leads_outside_is_a_problem(
        self, tmp_path: Path, outside: Path
    ) -> None:
        root = write_tree(tmp_path / "bare", {"globalproperties.json": {}})
        (root / "services").symlink_to(outside)
        assert len(problems(root)) == 1
        assert load(root).entries.keys() == {"globalproperties"}

    def test_a_link_to_nothing_is_a_problem(self, root: Path) -> None:
        (root / "services/extra.json").symlink_to("nowhere.json")
        assert problems(root) == [
            f"services/extra.json: {UNUSABLE}: nothing is at its other end; put the file itself here"
        ]

    def test_links_in_a_circle_are_problems(self, root: Path) -> None:
        (root / "services/a.json").symlink_to("b.json")
        (root / "services/b.json").symlink_to("a.json")
        (root / TAGS / "round").symlink_to("round")
        assert [message.partition(";")[0] for message in problems(root)] == [
            f"{TAGS}/round: {UNUSABLE}: it leads in a circle",
            f"services/a.json: {UNUSABLE}: it leads in a circle",
            f"services/b.json: {UNUSABLE}: it leads in a circle",
        ]

    def test_a_folder_link_to_its_own_parent_ends(self, root: Path) -> None:
        (root / TAGS / "again").symlink_to("..")
        tree = load(root)
        assert tree.problems == ()
        assert not any(key.startswith("tags/again/") for key in tree.entries)

    def test_a_link_inside_the_tree_is_followed(self, root: Path) -> None:
        (root / TAGS / "staging").symlink_to("lb")
        tree = load(root)
        assert tree.findings == ()
        assert tree.configuration.tags["staging"].template == "global\n"

    def test_the_tree_itself_may_be_reached_through_a_link(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "current").symlink_to(root)
        assert load(tmp_path / "current").entries == load(root).entries


class TestSize:
    def test_a_file_larger_than_the_store_takes_is_a_problem(self, tmp_path: Path) -> None:
        root = sound_tree(tmp_path, **{f"{TAGS}/lb/haproxy_files/big": "x" * (ETCD_LIMITS.bytes + 1)})
        (message,) = problems(root)
        assert message.startswith(
            f"{TAGS}/lb/haproxy_files/big: is larger than the store takes (1,500,000 bytes)"
        )

    def test_what_counts_is_the_entry_not_the_file(self, tmp_path: Path) -> None:
        root = sound_tree(tmp_path, **{f"{TAGS}/lb/haproxy_files/big": "\n" * (ETCD_LIMITS.bytes // 2)})
        (message,) = problems(root)
        assert message.startswith(f"{TAGS}/lb/haproxy_files/big: is larger than the store takes: 1,500,0")


class TestUnreadable:
    def test_a_folder_in_place_of_a_file_is_a_problem(self, tmp_path: Path) -> None:
        root = sound_tree(tmp_path, **{"services/extra.json/x": "x"})
        assert problems(root) == ["services/extra.json: is not a regular file; put a file here, or remove it"]

    def test_a_file_in_place_of_a_folder_is_a_problem(self, tmp_path: Path) -> None:
        root = sound_tree(tmp_path, **{f"{TAGS}/lb/certs": "x"})
        assert problems(root) == [f"{TAGS}/lb/certs: is not a folder; put a folder here, or remove it"]

    def test_a_pipe_is_a_problem_and_is_not_waited_for(self, tmp_path: Path) -> None:
        root = sound_tree(tmp_path)
        os.mkfifo(root / "services/extra.json")
        assert problems(root) == ["services/extra.json: is not a regular file; put a file here, or remove it"]

    def test_a_socket_among_the_files_is_a_problem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = sound_tree(tmp_path)
        monkeypatch.chdir(root / "services")  # socket paths are short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("extra.json")
            assert len(problems(root)) == 1

    def test_a_file_without_permission_is_a_problem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = sound_tree(tmp_path)

        def refusing(opened: Callable[..., Any]) -> Callable[..., Any]:
            def refuse(path: Path | str, *arguments: Any, **options: Any) -> Any:
                if str(path).endswith("haproxy.tpl"):  # root may read all, so chmod proves nothing here
                    raise PermissionError(13, "Permission denied")
                return opened(path, *arguments, **options)

            return refuse

        monkeypatch.setattr(Path, "open", refusing(Path.open))
        monkeypatch.setattr(os, "open", refusing(os.open))
        assert problems(root) == [f"{TAGS}/lb/haproxy.tpl: cannot be read: permission denied"]


class TestNoTree:
    def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(TreeError, match="nowhere: there is no such directory"):
            load(tmp_path / "nowhere")

    def test_a_file_is_no_tree(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(TreeError, match="is not a directory"):
            load(tmp_path / "file")

    @pytest.mark.parametrize("files", [{}, {"src/main.py": "x"}])
    def test_a_directory_without_any_part_of_a_tree_is_no_tree(
        self, tmp_path: Path, files: dict[str, str]
    ) -> None:
        with pytest.raises(TreeError, match=r"is not a configuration tree: .* `orbitctl init"):
            load(write_tree(tmp_path, files))

    def test_an_empty_services_folder_is_a_tree_with_nothing_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "services").mkdir()
        assert load(tmp_path).entries == {}
        assert load(tmp_path).findings == ()

    def test_a_tag_without_content_is_told(self, tmp_path: Path) -> None:
        (sound_tree(tmp_path) / TAGS / "empty").mkdir()
        assert warnings(tmp_path) == [f"{TAGS}/empty: this tag holds nothing, so it will not exist"]


def test_unknown_fields_can_be_turned_into_warnings(tmp_path: Path) -> None:
    root = sound_tree(tmp_path, **{f"{TAGS}/app/services/web.json": {"Colour": "red"}})
    assert len(problems(root)) == 1
    assert problems(root, allow_unknown=True) == []
