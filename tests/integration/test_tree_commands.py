"""The commands about trees as a person runs them: output, exit codes, and that bad input writes nothing."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped] # its stubs would be one more package
import pytest
from msgspec import Struct

from support.trees import LEGACY_TREE, TAGS, sound_tree, write_tree

pytestmark = pytest.mark.integration

TEMPLATE = f"{TAGS}/lb/haproxy.tpl"
GOOD_TEMPLATE = """\
global
    stats socket {{ socket }} mode 600 level admin
    hard-stop-after 30s
defaults
    mode http
    retries 3
    option redispatch
    timeout http-request 5s
    timeout connect 1s
    timeout client 1s
    timeout server 1s
listen web
    bind 127.0.0.1:8080
    {% for e in endpoints("web") -%}
    server {{ e.name }} {{ e.address }} check
    {% endfor %}
"""


class Done(Struct, frozen=True):
    """What a command left behind."""

    code: int
    out: str
    err: str


Orbitctl = Callable[..., Done]


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/store.db"


@pytest.fixture
def orbitctl(store_url: str) -> Orbitctl:
    """Runs ``orbitctl`` with a store of its own."""

    def run(*arguments: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "orbitcontrol", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env=_environment(store_url),
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def _environment(store_url: str) -> Mapping[str, str]:
    return {**os.environ, "ORBITCTL_STORE": store_url, "ORBITCTL_CONFIG": os.devnull}


def tree(root: Path, **changes: Any) -> Path:
    return sound_tree(root, **{TEMPLATE: GOOD_TEMPLATE, **changes})


def test_the_tree_that_init_writes_validates_and_imports(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = tmp_path / "new"
    assert orbitctl("init", root).code == 0
    validated = orbitctl("validate", root)
    assert (validated.code, validated.err) == (0, f"{root}: no problems\n")
    assert orbitctl("import", root).code == 0
    assert orbitctl("verify", root).code == 0


def test_init_leaves_a_directory_alone_that_holds_something(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = write_tree(tmp_path / "mine", {"x": "x"})
    done = orbitctl("init", root)
    assert done.code == 1
    assert "is not empty" in done.err
    assert [child.name for child in root.iterdir()] == ["x"]


def test_plan_import_plan_export_plan(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    planned = orbitctl("plan", root)
    assert planned.code == 1
    assert planned.out == "+ services/web\n+ tags/app/services/web\n+ tags/lb/haproxy_config\n"
    imported = orbitctl("import", root)
    assert imported.code == 0
    assert "Imported as generation 1." in imported.err
    again = orbitctl("plan", root)
    assert (again.code, again.out) == (0, "")
    assert "Nothing to change" in again.err
    assert "Nothing to change" in orbitctl("import", root).err
    assert orbitctl("export", tmp_path / "export").code == 0
    assert orbitctl("plan", tmp_path / "export").code == 0


def test_plan_and_verify_speak_json(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    planned = json.loads(orbitctl("plan", root, "-o", "json").out)
    assert planned["Changes"][0] == {"Key": "services/web", "Kind": "added", "Details": []}
    assert len(json.loads(orbitctl("verify", root, "-o", "json").out)) == 4


def test_verify_names_every_difference_and_tells_same_from_different(
    orbitctl: Orbitctl, tmp_path: Path
) -> None:
    root = tree(tmp_path / "tree")
    orbitctl("import", root)
    assert orbitctl("verify", root).code == 0
    other = tree(
        tmp_path / "other",
        **{"services/new.json": {"Name": "new"}, f"{TAGS}/app/services/web.json": {"EndpointPort": 81}},
    )
    done = orbitctl("verify", other)
    assert done.code == 1
    assert done.out == (
        "services/new: in the tree, not in the store\ntags/app/services/web: EndpointPort: (not set) → 81\n"
    )


BAD_TREES: dict[str, tuple[dict[str, Any], str]] = {
    "invalid JSON": (
        {"services/b.json": '{"Name": "b",}'},
        "services/b.json: line 1, column 13: remove this comma",
    ),
    "a duplicate key": ({"services/b.json": '{"Name": "b", "Name": "b"}'}, '"Name" is here twice'),
    "a misspelt field": (
        {"services/b.json": {"Name": "b", "Chekcs": []}},
        "services/b.json: Chekcs: unknown field; did you mean Checks?",
    ),
    "port 99999": (
        {"services/b.json": {"Name": "b", "EndpointPort": 99999}},
        "services/b.json: EndpointPort: must be from 0 to 65535, not 99999",
    ),
    "a file called ...json": (
        {"services/...json": {"Name": ".."}},
        "services/...json: a service cannot be called so",
    ),
    "a name with a slash": ({"services/b.json": {"Name": "a/b"}}, "services/b.json: Name: may hold letters"),
    "another name than the file's": ({"services/b.json": {"Name": "c"}}, 'services/b.json: Name: is "c"'),
    "names that differ in case": (
        {"services/WEB.json": {"Name": "WEB"}},
        'services/web.json: "web" and "WEB" differ only in case',
    ),
    "a binding to nothing": (
        {f"{TAGS}/app/services/wbe.json": {}},
        f'{TAGS}/app/services/wbe.json: there is no service "wbe"; did you mean web?',
    ),
    "a template with a syntax error": ({TEMPLATE: "global\n{% for %}\n"}, f"{TEMPLATE}:2: "),
    "a template with an undefined name": ({TEMPLATE: "global\n# {{ nmae }}\n"}, f"{TEMPLATE}:2: "),
    "a template that names no service": (
        {TEMPLATE: GOOD_TEMPLATE.replace('"web"', '"wbe"')},
        f"{TEMPLATE}:14: there is no service 'wbe'; did you mean 'web'?",
    ),
    "a directive that HAProxy refuses": (
        {TEMPLATE: GOOD_TEMPLATE.replace("check\n", "chekc\n")},
        f"{TEMPLATE}:15: ",
    ),
    "files without a template": (
        {f"{TAGS}/app/haproxy_files/a": "x"},
        f"{TAGS}/app/haproxy_files: these files",
    ),
    "certificates without a template": ({f"{TAGS}/app/certs/a": "x"}, f"{TAGS}/app/certs: these files"),
    "a file that is not UTF-8": (
        {f"{TAGS}/lb/haproxy_files/a": b"\xff"},
        "haproxy_files/a: line 1: byte 0xff is not UTF-8",
    ),
    "a file that is too large": (
        {f"{TAGS}/lb/haproxy_files/a": "x" * 1_500_001},
        "haproxy_files/a: is larger than the store takes",
    ),
}


@pytest.mark.parametrize("why", BAD_TREES)
def test_bad_input_is_told_and_nothing_is_written(orbitctl: Orbitctl, tmp_path: Path, why: str) -> None:
    changes, message = BAD_TREES[why]
    orbitctl("import", tree(tmp_path / "good"))
    bad = tree(tmp_path / "bad", **changes)
    validated, imported = orbitctl("validate", bad), orbitctl("import", bad, "--yes")
    assert (validated.code, imported.code) == (1, 1)
    assert message in validated.err
    assert message in imported.err
    assert "nothing was written" in imported.err
    assert orbitctl("verify", tmp_path / "good").code == 0


def test_two_bad_files_and_a_bad_template_are_all_told_at_once(orbitctl: Orbitctl, tmp_path: Path) -> None:
    changes = {"services/a.json": "{", "services/b.json": "[", TEMPLATE: "{{ nothing }}"}
    done = orbitctl("validate", tree(tmp_path, **changes))
    lines = done.err.splitlines()
    assert [line.partition(": ")[0] for line in lines[:-1]] == [
        f"{TEMPLATE}:1",
        "services/a.json",
        "services/b.json",
    ]
    assert lines[-1] == f"{tmp_path}: 3 problems, 0 warnings"


def test_a_link_out_of_the_tree_is_refused(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = tree(tmp_path / "tree")
    (root / "services/passwd.json").symlink_to("/etc/passwd")
    done = orbitctl("import", root)
    assert done.code == 1
    assert "services/passwd.json: this link cannot be used: it leaves the tree" in done.err
    assert orbitctl("export", tmp_path / "none").code == 1


def test_strays_are_warned_about_and_ignored(orbitctl: Orbitctl, tmp_path: Path) -> None:
    done = orbitctl("validate", tree(tmp_path, **{"notes.txt": "x", "services/web.json~": "x"}))
    assert done.code == 0
    assert "warning: notes.txt: ignored" in done.err
    assert "warning: services/web.json~: ignored" in done.err


def test_a_legacy_template_is_refused_by_file_and_line(orbitctl: Orbitctl) -> None:
    done = orbitctl("validate", LEGACY_TREE)
    assert done.code == 1
    problems = [line for line in done.err.splitlines() if line.startswith(f"{TAGS}/testtag/haproxy.tpl:")]
    assert [line.split(":")[1] for line in problems] == ["20", "21", "22"]


def test_a_legacy_tree_is_imported_as_it_is_where_its_template_is_not_judged(
    orbitctl: Orbitctl, tmp_path: Path
) -> None:
    assert orbitctl("import", LEGACY_TREE).code == 1
    imported = orbitctl("import", LEGACY_TREE, "--no-haproxy-check")
    assert imported.code == 0, imported.err
    assert orbitctl("plan", LEGACY_TREE).code == 0
    shown = orbitctl("service", "ubuntu").out
    assert "github.com/Applifier/ubuntu" in shown
    assert orbitctl("export", tmp_path / "export").code == 0
    for kind in ("haproxy.tpl", "certs/test.pem", "haproxy_files/500.http", "haproxy_files/hello.txt"):
        path = f"{TAGS}/testtag/{kind}"
        assert (tmp_path / "export" / path).read_bytes() == (LEGACY_TREE / path).read_bytes()


def test_unknown_fields_can_be_allowed(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = tree(tmp_path, **{f"{TAGS}/app/services/web.json": {"Colour": "red"}})
    assert orbitctl("validate", root).code == 1
    done = orbitctl("validate", root, "--allow-unknown")
    assert done.code == 0
    assert f"warning: {TAGS}/app/services/web.json: Colour: unknown field" in done.err


@pytest.mark.parametrize("command", ["validate", "plan", "import", "export", "verify", "init"])
def test_a_missing_argument_is_wrong_usage(orbitctl: Orbitctl, command: str) -> None:
    done = orbitctl(command)
    assert done.code == 2
    assert "Missing argument 'DIR'" in done.err


def test_commands_that_tell_same_from_different_fail_with_2(orbitctl: Orbitctl, tmp_path: Path) -> None:
    assert orbitctl("plan", tmp_path / "none").code == 2
    assert orbitctl("verify", tree(tmp_path / "bad", **{"services/a.json": "{"})).code == 2
    assert orbitctl("plan", tree(tmp_path / "good"), "--store", "etcd://127.0.0.1:1").code == 2
    assert orbitctl("import", tmp_path / "good", "--store", "etcd://127.0.0.1:1").code == 1


def test_without_haproxy_templates_are_still_rendered(orbitctl: Orbitctl, tmp_path: Path) -> None:
    root = tree(tmp_path, **{TEMPLATE: "nonsense {{ socket }}\n"})
    done = orbitctl("validate", root, "--haproxy-binary", "/nonexistent/haproxy")
    assert done.code == 0
    assert "is not on this machine" in done.err
    assert orbitctl("import", root, "--no-haproxy-check").code == 0
    assert orbitctl("import", tree(tmp_path / "2", **{TEMPLATE: "{{ x }}"}), "--no-haproxy-check").code == 1


@pytest.mark.parametrize(("kind", "path"), [("service", "services"), ("tag", f"{TAGS}/app/services")])
def test_the_example_validates_against_the_schema(orbitctl: Orbitctl, kind: str, path: str) -> None:
    schema = json.loads(orbitctl("schema", kind).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    files = sorted((Path(__file__).parents[2] / "examples/quickstart" / path).glob("*.json"))
    assert files
    for file in files:
        jsonschema.validate(json.loads(file.read_text()), schema)


class TestRemovalIsAsked:
    @pytest.fixture
    def smaller(self, orbitctl: Orbitctl, tmp_path: Path) -> Path:
        """A tree with less in it than what is imported."""
        orbitctl("import", tree(tmp_path / "1", **{"services/b.json": {"Name": "b"}}))
        return tree(tmp_path / "2")

    def test_without_a_terminal_nobody_is_asked(self, orbitctl: Orbitctl, smaller: Path) -> None:
        done = orbitctl("import", smaller)
        assert done.code == 0
        assert "- services/b" in done.out

    @pytest.mark.parametrize(
        ("answer", "options", "code", "removed"),
        [("n", [], 1, False), ("y", [], 0, True), ("", ["--yes"], 0, True), ("", ["--force"], 0, True)],
    )
    def test_at_a_terminal_the_answer_counts(
        self,
        orbitctl: Orbitctl,
        store_url: str,
        smaller: Path,
        *,
        answer: str,
        options: list[str],
        code: int,
        removed: bool,
    ) -> None:
        primary, terminal = pty.openpty()
        with os.fdopen(primary, "wb", buffering=0) as keyboard:
            os.write(keyboard.fileno(), f"{answer}\n".encode())
            done = subprocess.run(
                [sys.executable, "-m", "orbitcontrol", "import", str(smaller), *options],
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=terminal,
                timeout=60,
                env=_environment(store_url),
                check=False,
            )
            os.close(terminal)
        assert done.returncode == code
        assert (orbitctl("verify", smaller).code == 0) is removed
