"""Which files never enter a prompt: the one choke point that every prompt passes.

Rule: whoever is about to show a file's text to a model asks `refusal` first. Pure: a path in, a
reason out; nothing is opened.
"""

from __future__ import annotations

import re
from contextlib import suppress
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

# Names (of the file itself, lower case) that hold secrets by convention.
SECRET_NAMES = (
    ".env",
    ".env.*",
    "*.env",
    ".envrc",
    "*.pem",
    "*.key",
    "*.cert",
    "*.crt",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.ppk",
    "*.asc",
    "*.gpg",
    "*.age",
    "secrets.*",
    "secret.*",
    "*.secrets",
    "*.secret",
    "credentials",
    "credentials.*",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".git-credentials",
    ".vault_pass*",
    "*.tfvars",
    "*.tfstate*",
    "kubeconfig",
    "shadow",
)
# Folders (lower case) of which every file counts as secret.
SECRET_FOLDERS = (".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".password-store")

_NAME = re.compile("|".join(translate(pattern) for pattern in SECRET_NAMES))


def refusal(path: str) -> str | None:
    """Why the file at `path` (with / or \\) must not be shown to a model; None: it may be."""
    *folders, name = path.replace("\\", "/").lower().split("/")
    if _NAME.match(name):
        return f"{name} may hold secrets"
    for folder in folders:
        if folder in SECRET_FOLDERS:
            return f"files in {folder} may hold secrets"
    return None


def matches(patterns: tuple[str, ...], path: str) -> bool:
    """Whether `patterns`, with the rules of .gitignore, name the file at an absolute path.

    A pattern with a leading slash begins at the root of the file system.
    """
    return bool(path) and _compiled(patterns).match_file(path.replace("\\", "/").lstrip("/"))


@lru_cache(maxsize=4)
def _compiled(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # 20 ms, and few users need it

    usable: list[GitIgnoreSpecPattern] = []
    for pattern in patterns:
        with suppress(ValueError):  # as git does: what is no pattern names no file
            usable += GitIgnoreSpec.from_lines([pattern]).patterns
    return GitIgnoreSpec(usable)
