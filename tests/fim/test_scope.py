from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fim.scope import BRACE_LANGUAGES, body_to_fill

# (what it shows, language, text with | at the cursor, text after filling with @)
CASES = [
    ("pass", "python", "def f(x):\n    pa|ss\n\ny = 1\n", "def f(x):\n    @\n\ny = 1\n"),
    ("ellipsis", "python", "def f(x|): ...\n", "def f(x):\n    @\n"),
    ("no body", "python", "def f(x):|", "def f(x):\n    @"),
    ("no body, indented", "python", "def f(x):\n    |\n", "def f(x):\n    @\n"),
    (
        "docstring stays",
        "python",
        'class A:\n    def f(self):|\n        """Return (it.\n\nAll."""\n\n    def g(self): ...\n',
        'class A:\n    def f(self):\n        """Return (it.\n\nAll."""\n        @\n\n'
        "    def g(self): ...\n",
    ),
    (
        "docstring and pass",
        "python",
        'def f():\n  """Doc."""\n  pass|\n',
        'def f():\n  """Doc."""\n  @\n',
    ),
    (
        "comment stays",
        "python",
        "def f():\n    # TODO: sum|\n    pass\nx = 1\n",
        "def f():\n    # TODO: sum\n    @\nx = 1\n",
    ),
    (
        "from the cursor's line",
        "python",
        "def f(xs):\n    n = 0\n    for x| in xs:\n        n += x\n    return n\n\ndef g(): pass\n",
        "def f(xs):\n    n = 0\n    @\n\ndef g(): pass\n",
    ),
    (
        "from a blank line at the end",
        "python",
        "def f(xs):\n    n = 0\n    |\nx = 1\n",
        "def f(xs):\n    n = 0\n    @\nx = 1\n",
    ),
    (
        "the whole body from the header",
        "python",
        "async def |f(\n    a,\n    b={1: 2},\n) -> dict[str, int]:\n    x = 1\n    return x\n",
        "async def f(\n    a,\n    b={1: 2},\n) -> dict[str, int]:\n    @\n",
    ),
    (
        "the innermost function",
        "python",
        "def f():\n    def g():\n        pass|\n    return g\n",
        "def f():\n    def g():\n        @\n    return g\n",
    ),
    ("outside", "python", "def f():\n    pass\n\nx = |1\n", None),
    ("no function", "python", "x = 1|\n", None),
    ("header not ended", "python", "def f(x|", None),
    ("CRLF and tabs", "python", "def f():\r\n\tpass|\r\n", "def f():\r\n\t@\r\n"),
    ("a def in a string", "python", 's = """\ndef f():\n    pass|\n"""\n', None),
    ("empty braces", "javascript", "function f(a) {|}\n", "function f(a) {\n  @\n}\n"),
    ("empty lines", "javascript", "function f(a) {\n  |\n}\n", "function f(a) {\n  @\n}\n"),
    ("arrow", "javascript", "xs.map((x) => {|});\n", "xs.map((x) => {\n  @\n});\n"),
    (
        "method, not the if in it",
        "javascript",
        "class A {\n    m(a) {\n        if (a) {\n            b|();\n        }\n    }\n}\n",
        "class A {\n    m(a) {\n        if (a) {\n            @\n    }\n}\n",
    ),
    ("object, no function", "javascript", "const x = {\n  a: 1,|\n};\n", None),
    ("class, no method", "typescript", "class A extends B {\n  |\n}\n", None),
    (
        "return type, no semicolons",
        "typescript",
        "import a from 'a'\n\nexport async function f(x: number): Promise<number[]> {|\n}\n",
        "import a from 'a'\n\nexport async function f(x: number): Promise<number[]> {\n  @\n}\n",
    ),
    (
        "TODO",
        "c",
        "#include <stdio.h>\n\nint main(void)\n{\n    // TODO: print }|\n}\n",
        "#include <stdio.h>\n\nint main(void)\n{\n    // TODO: print }\n    @\n}\n",
    ),
    ("include line", "c", "#include <stdio.h>|\n\nint main(void) {\n}\n", None),
    ("returns a struct", "c", "struct a *f(int x) {|\n}\n", "struct a *f(int x) {\n    @\n}\n"),
    (
        "initialisers",
        "cpp",
        "A::A(int x) : b(x), c(0) {\n|}\nint z;\n",
        "A::A(int x) : b(x), c(0) {\n    @\n}\nint z;\n",
    ),
    ("const", "cpp", "int A::f() const noexcept {|}\n", "int A::f() const noexcept {\n    @\n}\n"),
    (
        "todo!()",
        "rust",
        "impl A {\n    pub fn f<'a>(&'a self) -> Result<(), E> {\n        todo!()|\n    }\n}\n",
        "impl A {\n    pub fn f<'a>(&'a self) -> Result<(), E> {\n        @\n    }\n}\n",
    ),
    (
        "where",
        "rust",
        "fn f<T>(x: T) -> T\nwhere\n    T: Copy,\n{|\n}\n",
        "fn f<T>(x: T) -> T\nwhere\n    T: Copy,\n{\n    @\n}\n",
    ),
    ("match, no function", "rust", "static X: i32 = match f(1) {\n    |\n};\n", None),
    (
        "method with two lists",
        "go",
        "package a\n\nfunc (s *S) Do(x int) (int, error) {|\n}\n",
        "package a\n\nfunc (s *S) Do(x int) (int, error) {\n\t@\n}\n",
    ),
    (
        "the rest, with strings of braces",
        "go",
        'func f() string {\n\tx := "}"\n\ty := `{`|\n\treturn x + y\n}\n',
        'func f() string {\n\tx := "}"\n\t@\n}\n',
    ),
    ("not closed yet", "rust", "fn f() {|\n", "fn f() {\n    @\n"),
    ("on one line", "java", "int f() { return| 1; }\n", "int f() {\n    @\n}\n"),
    ("unknown language", "cobol", "def f():\n    pass|\n", None),
]


@pytest.mark.parametrize(
    ("language", "marked", "filled"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_body_to_fill(language: str, marked: str, filled: str | None) -> None:
    offset = marked.index("|")
    text = marked.replace("|", "", 1)
    region = body_to_fill(text, offset, language)
    if filled is None or region is None:
        assert region is None
        assert filled is None
        return
    new = region.lead + "@" + region.trail
    assert text[: region.start] + new + text[region.end :] == filled


pieces = [
    "def f(x):\n",
    "    pass\n",
    "{",
    "}",
    "(",
    ")",
    "\n",
    "\r\n",
    '"""',
    "# a\n",
    "fn f()",
    ";",
]


@given(
    st.sampled_from(["python", *sorted(BRACE_LANGUAGES)]),
    st.lists(st.sampled_from(pieces), max_size=30).map("".join),
    st.integers(-1, 200),
)
def test_body_to_fill_stays_inside_the_text(language: str, text: str, offset: int) -> None:
    region = body_to_fill(text, offset, language)
    if region is not None:
        assert 0 <= region.start <= region.end <= len(text)
        assert region.lead.strip() == ""
        assert region.trail.strip() == ""
