from __future__ import annotations

import pytest

from lsp_server.ignore import matches, refusal


@pytest.mark.parametrize(
    "path",
    [
        "/w/.env",
        "/w/.env.local",
        "/w/prod.env",
        "/w/tls/server.pem",
        "/w/SERVER.KEY",
        "/w/secrets.yaml",
        "/w/id_rsa",
        "/w/id_ed25519.pub",
        "/home/u/.ssh/config",
        "/home/u/.aws/config",
        "C:\\Users\\u\\.SSH\\config",
        "/w/terraform.tfvars",
        ".env",
    ],
)
def test_refusal_of_secret_files(path):
    assert refusal(path)


@pytest.mark.parametrize(
    "path",
    ["/w/main.py", "/w/environment.py", "/w/keys.py", "/w/env/x.py", "/w/secretary.py", "", "/"],
)
def test_refusal_lets_code_through(path):
    assert refusal(path) is None


@pytest.mark.parametrize(
    ("patterns", "path", "named"),
    [
        (("*.min.js",), "/w/a/b.min.js", True),
        (("*.min.js",), "/w/a/b.js", False),
        (("vendor/",), "/w/vendor/lib/a.py", True),
        (("vendor/",), "/w/vendor.py", False),
        (("*.py", "!keep.py"), "/w/keep.py", False),
        (("/w/",), "/w/a.py", True),
        (("a.py",), "C:\\w\\a.py", True),
        (("!", "**", "*.py"), "", False),
        (("!", "/", "*.py"), "/w/a.py", True),  # what is no pattern is passed over
        ((), "/w/a.py", False),
    ],
)
def test_matches_goes_by_the_rules_of_gitignore(patterns, path, named):
    assert matches(patterns, path) is named
