from __future__ import annotations

import pytest

from lsp_server.kernels import files
from lsp_server.kernels.task import Candidate, Language, Task

CODE = "import triton\n\n\ndef softmax(x):\n    return x\n"
TASK = Task("softmax", "def softmax(x): ...\n", (), Language.TRITON)
CANDIDATE = Candidate(CODE, "template:softmax")


def written(**more: str) -> str:
    return files.kernel_text(TASK, CANDIDATE, "attention.py", **more)


def test_kernel_file_says_what_it_is():
    marker = files.read(written(shapes="x: (N, 128) float16"))
    assert marker is not None
    assert (marker.reference, marker.function) == ("attention.py", "softmax")
    assert (marker.language, marker.origin) == (Language.TRITON, "template:softmax")
    assert marker.shapes == "x: (N, 128) float16"
    assert marker.code == files.digest(CODE)


@pytest.mark.parametrize(
    "saved",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
    ],
)
def test_code_of_a_kernel_file_is_the_candidates_however_it_was_saved(saved):
    assert files.code_of(saved(written())) == CODE


def test_code_that_was_changed_is_another():
    assert files.digest(files.code_of(written().replace("return x", "return -x"))) != files.digest(
        CODE
    )


def test_lines_of_the_code_are_found_in_the_file_below_a_licence_too():
    licence = "# A licence\n# of two\u2028lines\n\f\n"  # which end lines for Python alone
    for text in (written(), licence + written()):
        lines = text.split("\n")
        for number, line in enumerate(files.code_of(text).split("\n"), 1):
            assert lines[files.line_in_file(text, number) - 1] == line
    assert files.read(licence + written()) == files.read(written())
    assert "midspan" not in files.code_of(licence + written())


@pytest.mark.parametrize(
    "marker",
    [
        "{}",
        "[]",
        "nonsense",
        '{"reference": "../../etc/x.py", "function": "f", "language": "c"}',
        '{"reference": "/etc/x.py", "function": "f", "language": "c"}',
        '{"reference": ".env", "function": "f", "language": "c"}',
        '{"reference": "a.py", "function": "f()", "language": "c"}',
        '{"reference": "a.py", "function": "f", "language": "fortran"}',
    ],
)
def test_marker_that_points_elsewhere_or_says_nothing_is_none(marker: str):
    assert files.read(f"# midspan-kernel: {marker}\nx = 1\n") is None


def test_other_files_are_no_kernels():
    assert files.read(CODE) is None
    assert files.line_in_file(CODE, 3) == 3
    assert files.code_of(CODE) == CODE


def test_module_names_are_numbered_from_the_second_on():
    names = [files.module_name("f", Language.C, number) for number in (1, 2, 3)]
    assert names == ["f_c", "f_c_2", "f_c_3"]
