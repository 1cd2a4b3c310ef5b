from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import config, config_files

NASTY = """# [a.comment]
top = 1
[manager] # [not.a.table]
"port" = 1 # port = 2
text = \"\"\"
[fake]
x = 1 \\\"\"\"
"\"\"\"
raw = '''[fake] ''x = 2'''
list = [ 1, # [x]
  { inner = 1 }, "]", ']'
]
date = 1979-05-27 07:32:00
a.b . "c d" = true
[models."x.y"]
inline = { p = "}", q.r = 1, s = { t = [2] } }
[[many]]
z = 1
[ models . 'm' ]
last=0"""


def test_toml_places_are_where_the_keys_stand() -> None:
    document = config_files.parse(NASTY, "c.toml")
    assert document.problems == ()
    lines = NASTY.splitlines()
    found = {}
    for key, (line, column, length) in document.places.items():
        found[".".join(key)] = (line, lines[line - 1][column - 1 : column - 1 + length])
    assert found == {
        "top": (2, "top"),
        "manager": (3, "manager"),
        "manager.port": (4, '"port"'),
        "manager.text": (5, "text"),
        "manager.raw": (9, "raw"),
        "manager.list": (10, "list"),
        "manager.date": (13, "date"),
        "manager.a": (14, "a"),
        "manager.a.b": (14, "b"),
        "manager.a.b.c d": (14, '"c d"'),
        "models": (15, "models"),
        "models.x.y": (15, '"x.y"'),
        "models.x.y.inline": (16, "inline"),
        "models.x.y.inline.p": (16, "p"),
        "models.x.y.inline.q": (16, "q"),
        "models.x.y.inline.q.r": (16, "r"),
        "models.x.y.inline.s": (16, "s"),
        "models.x.y.inline.s.t": (16, "t"),
        "many": (17, "many"),
        "many.z": (18, "z"),
        "models.m": (19, "'m'"),
        "models.m.last": (20, "last"),
    }


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=4)
LEAVES = st.one_of(
    st.booleans(), st.integers(-9, 9), st.text(max_size=5), st.lists(st.integers(0, 9), max_size=2)
)
TREES = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3),
    lambda inner: st.dictionaries(KEYS, st.one_of(LEAVES, inner), max_size=3),
    max_leaves=8,
)


def paths_in(tree: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths_in(value, (*above, key))


@given(TREES, st.sampled_from([None, 2]))
def test_json_places_name_every_key(tree: dict[str, object], indent: int | None) -> None:
    text = json.dumps(tree, indent=indent)
    document = config_files.parse(text, "c.json")
    assert document.values == tree
    assert set(document.places) == set(paths_in(tree))
    lines = text.split("\n")
    for key, (line, column, length) in document.places.items():
        assert json.loads(lines[line - 1][column - 1 :][:length]) == key[-1]


def as_toml(tree: Mapping[str, object], table: str, inline: bool) -> str:
    """`tree` in TOML: its tables as [headers], or inline."""
    plain = "".join(
        f"{quoted(key)} = {as_value(value)}\n"
        for key, value in tree.items()
        if inline or not isinstance(value, dict)
    )
    below = (
        ""
        if inline
        else "".join(
            as_toml(value, f"{table}.{quoted(key)}" if table else quoted(key), inline)
            for key, value in tree.items()
            if isinstance(value, dict)
        )
    )
    return (f"[{table}]\n" if table else "") + plain + below


def quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def as_value(value: object) -> str:
    if not isinstance(value, dict):
        return quoted(value)
    return "{ " + ", ".join(f"{quoted(k)} = {as_value(v)}" for k, v in value.items()) + " }"


@given(TREES, st.booleans())
def test_toml_places_name_every_key(tree: dict[str, object], inline: bool) -> None:
    text = as_toml(tree, "", inline)
    assert tomllib.loads(text) == tree
    document = config_files.parse(text, "c.toml")
    assert set(document.places) == set(paths_in(tree))
    lines = text.split("\n")
    for key, (line, column, length) in document.places.items():
        assert json.loads(lines[line - 1][column - 1 :][:length]) == key[-1]


# --- which file ---------------------------------------------------------------------------------


def port(folder: Path) -> tuple[int, list[str]]:
    settings, problems = config.load(folder / "config.toml", {})
    return settings.manager.port, [f"{Path(p.source).name}: {p.message}" for p in problems]


def test_json_is_read_where_there_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"manager": {"port": 7}}')
    assert port(tmp_path) == (7, [])


def test_toml_wins_over_json_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"manager": {"port": 7}}')
    (tmp_path / "config.toml").write_text("[manager]\nport = 8\n")
    assert port(tmp_path) == (
        8,
        ["config.json: is not read, because there is a config.toml beside it; keep one of the two"],
    )


def test_a_file_named_by_hand_has_no_other_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"manager": {"port": 7}}')
    settings, problems = config.load(tmp_path / "mine.toml", {})
    assert (settings, problems) == (config.Settings(), [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"manager": {"port": 7,}}', "Illegal trailing comma"),
        (b'{"manager": ', "Expecting value"),
        (b"[1]", "must be an object"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"a": ' * 100_000, "cannot be read"),
        (b'{"manager": {"port": ' + b"9" * 5000 + b"}}", "cannot be read"),
        (b"x" * 2_000_000, "cannot be read: it is larger than 1 MiB"),
    ],
)
def test_a_broken_json_file_is_one_problem(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    found, (problem,) = port(tmp_path)
    assert found == 0
    assert message in problem or "Expecting property name" in problem


@pytest.mark.parametrize(
    "content", [b"\xff", b"a = " + b"[" * 100_000, b"a = " + b"9" * 5000, b"a" * 2_000_000]
)
def test_a_broken_toml_file_is_one_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    found, (problem,) = port(tmp_path)
    assert found == 0
    assert problem.startswith("config.toml: ")


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[manager]\r\nport = 8\r\nprot = 1\r\n")
    settings, problems = config.load(tmp_path / "config.toml", {})
    assert settings.manager.port == 8
    assert [(p.line, p.column, p.length) for p in problems] == [(3, 1, 4)]


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch(mode=0)
    assert port(tmp_path) == (0, ["config.toml: cannot be read: Permission denied"])


def test_a_folder_in_the_files_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    assert port(tmp_path) == (0, ["config.toml: cannot be read: Is a directory"])


def test_relative_paths_start_at_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "config.toml").write_text(
        '[models.a]\npath = "m/a.gguf"\nca_file = "~/ca.pem"\nbinary = "llama-server"\n'
        '[models.b]\npath = "/abs/b.gguf"\nbinary = "bin/llama-server"\n'
    )
    settings, problems = config.load(tmp_path / "config.toml", {})
    a, b = settings.models["a"], settings.models["b"]
    assert problems == []
    assert (a.path, a.ca_file, a.binary) == (
        f"{tmp_path}/m/a.gguf",
        "/home/me/ca.pem",
        "llama-server",
    )
    assert (b.path, b.binary) == ("/abs/b.gguf", f"{tmp_path}/bin/llama-server")


def test_a_pipe_in_the_files_place_is_a_problem_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    assert port(tmp_path) == (0, ["config.toml: cannot be read: it is a pipe"])
