from __future__ import annotations

import pytest

from lsp_server.ignore import refusal


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
