"""Chooses the training files and writes the corpus with its manifest of files, licences and hashes.

Rule of this module: a file gets in only if its licence is permissive by its own package metadata
and it shares next to nothing with a held-out module. It knows nothing of tokens.

    python -m training.corpus --site SITE_PACKAGES --out DIR
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import platform
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from benchmarks.holdout import held_out_modules, stdlib_root, training_modules

logger = logging.getLogger(__name__)

PERMISSIVE_SPDX = frozenset(
    {
        *("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "Apache-2.0", "PSF-2.0"),
        *("Python-2.0", "Python-2.0.1", "ISC", "CC0-1.0", "Unlicense", "Zlib", "HPND", "MIT-CMU"),
        "BSL-1.0",
    }
)
"""SPDX identifiers that are let in; every part of an expression must be one of them."""

PERMISSIVE_NAMES = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: MIT No Attribution License (MIT-0)": "MIT-0",
    "License :: OSI Approved :: BSD License": "BSD",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
}
"""Trove classifiers that are let in, and how the manifest calls them."""

PERMISSIVE_FIELDS = PERMISSIVE_SPDX | {"BSD", "Apache 2.0", "Apache License 2.0", "MIT License"}
"""Free-form `License` fields that are let in where there is nothing better."""

GENERATED = re.compile(
    r"generated (by|from|automatically)|automatically generated|do not edit", re.IGNORECASE
)
"""In a file's first characters: written by a program. In Python 3.11, a third of all held-out
characters are the code tables of `encodings`, which say nothing about completing code."""

SKIPPED_FOLDERS = frozenset(
    {
        *("test", "tests", "testing", "_tests", "idle_test", "test_data", "testdata"),
        *("__pycache__", "locale", "locales", "migrations"),
        *("_vendor", "vendor", "vendored", "_vendored_packages", "externals", "extern"),
        *("backports", "_distutils", "importlib_metadata", "importlib_resources"),
    }
)
"""Folders of tests, data and vendored copies (copies would blur both the licence and the
hold-out)."""

SKIPPED_NAMES = re.compile(
    r"(^test_|_test$|^conftest$|_pb2$|^typing_extensions$|^_?version$|lextab|yacctab|unicode_codes)"
)
MAX_LINE, MIN_BYTES, MAX_BYTES = 240, 400, 150_000
MAX_PACKAGE_BYTES = 1_500_000
"""Bytes taken from one package, so that no project's style dominates; files are taken in order of
hash."""

SHINGLE_LINES, MAX_SHARED = 6, 0.10
"""A file is dropped if more than this share of its runs of six lines also occur in held-out
modules."""


@dataclass(frozen=True)
class Document:
    """One file of the corpus. `source` is "stdlib" or a package name; `path` is relative to the
    source's root."""

    source: str
    path: str
    licence: str
    text: str


def shingles(text: str) -> set[int]:
    """Hashes of every run of `SHINGLE_LINES` lines, without blank lines and surrounding space."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {
        hash(tuple(lines[i : i + SHINGLE_LINES])) for i in range(len(lines) - SHINGLE_LINES + 1)
    }


def shared_with(text: str, held_out: set[int]) -> float:
    """The share (0 to 1) of a text's shingles that occur in `held_out`."""
    own = shingles(text)
    return len(own & held_out) / len(own) if own else 0.0


def licence_of(dist: metadata.Distribution) -> str | None:
    """The package's licence if its metadata names only permissive ones, else None."""
    meta = dist.metadata
    expression = " ".join(meta.get_all("License-Expression") or [])
    if expression:
        words = re.findall(r"[A-Za-z0-9.+-]+", expression)
        names = [word for word in words if word not in ("AND", "OR", "WITH")]
        return expression if names and set(names) <= PERMISSIVE_SPDX else None
    classifiers = [c for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    named = {c for c in classifiers if c != "License :: OSI Approved"}
    if named:
        if not named <= PERMISSIVE_NAMES.keys():
            return None
        return " AND ".join(sorted({PERMISSIVE_NAMES[c] for c in named}))
    field = " ".join(meta.get_all("License") or []).strip()
    return field if field in PERMISSIVE_FIELDS else None


def rejects(path: Path, text: str) -> str | None:
    """Why a file's text is not worth training on, or None if it is."""
    if not MIN_BYTES <= len(text.encode("utf-8", "replace")) <= MAX_BYTES:
        return "size"
    if SKIPPED_NAMES.search(path.stem):
        return "name"
    if is_generated(text):
        return "generated"
    lines = text.splitlines()
    if max(map(len, lines)) > MAX_LINE:
        return "long lines"
    data = sum(
        1
        for line in lines
        if re.fullmatch(r"""[\s\d.,xXa-fA-F()\[\]{}'"\\:+-]*""", line) and len(line.strip()) > 8
    )
    if data > 0.2 * len(lines):
        return "data table"
    return None


def read_text(path: Path) -> str | None:
    """A file's text with line feeds only, or None if it isn't UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\x00" in text else text.replace("\r\n", "\n").replace("\r", "\n")


def stdlib_documents() -> Iterator[Document]:
    """Every training module's files."""
    root = stdlib_root()
    for files in training_modules().values():
        for path in files:
            text = read_text(path)
            if text is not None:
                yield Document("stdlib", path.relative_to(root).as_posix(), "PSF-2.0", text)


def package_documents(site: Path, refused: dict[str, str]) -> Iterator[Document]:
    """The Python files of every permissive distribution under `site`; the others' names go into
    `refused`."""
    seen: set[str] = set()
    found = metadata.distributions(path=[str(site)])
    for dist in sorted(found, key=lambda d: d.metadata["Name"].lower()):
        name, licence, taken = dist.metadata["Name"], licence_of(dist), 0
        if licence is None:
            refused[name] = "licence unclear or not permissive by its metadata"
            continue
        for file in sorted(map(str, filter(wanted, dist.files or [])), key=hash_of):
            path = site / file
            if file in seen or taken > MAX_PACKAGE_BYTES or not path.is_file():
                continue
            seen.add(file)
            text = read_text(path)
            if text is not None and len(text) >= MIN_BYTES:
                taken += len(text)
                yield Document(name, file, licence, text)


def wanted(file: PurePosixPath) -> bool:
    """Whether a package's file is Python source outside tests and vendored copies."""
    folders = {part.lower() for part in file.parts[:-1]}
    return file.suffix == ".py" and ".." not in file.parts and not SKIPPED_FOLDERS & folders


def is_generated(text: str) -> bool:
    """Whether a file says of itself that a program wrote it."""
    return GENERATED.search(text[:800]) is not None


def hash_of(text: str) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def select(
    documents: Iterable[Document], held_out: set[int], dropped: Counter[str]
) -> list[Document]:
    """The documents worth keeping; `dropped` counts the others by reason. Exact duplicates go,
    too."""
    kept, seen = [], set()
    for document in documents:
        key = hashlib.sha256(document.text.encode()).digest()
        reason = rejects(Path(document.path), document.text)
        if key in seen:
            reason = "duplicate"
        elif reason is None and shared_with(document.text, held_out) > MAX_SHARED:
            reason = "shares lines with held-out modules"
        seen.add(key)
        if reason:
            dropped[reason] += 1
        else:
            kept.append(document)
    return kept


def write(
    out: Path, documents: list[Document], refused: dict[str, str], dropped: Counter[str]
) -> None:
    """Writes `corpus.jsonl` (one document a line) and `manifest.json` (one file a line, no
    text)."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as stream:
        for document in documents:
            stream.write(json.dumps(asdict(document)) + "\n")
    sources = sorted({(d.source, d.licence) for d in documents})
    head = {
        "python": platform.python_version(),
        "held_out_modules": sorted(held_out_modules()),
        "files": len(documents),
        "bytes": sum(len(d.text.encode()) for d in documents),
        "stdlib_bytes": sum(len(d.text.encode()) for d in documents if d.source == "stdlib"),
        "dropped": dict(sorted(dropped.items())),
        "refused_packages": dict(sorted(refused.items())),
        "licences": dict(sources),
    }
    rows = [[d.source, d.path, hashlib.sha256(d.text.encode()).hexdigest()] for d in documents]
    body = ",\n".join(json.dumps(row) for row in rows)
    text = (
        json.dumps(head, indent=1)[:-2]
        + ',\n "columns": ["source", "path", "sha256"],\n "rows": [\n'
        + body
        + "\n]}\n"
    )
    (out / "manifest.json").write_text(text, encoding="utf-8")


def load(path: Path) -> list[Document]:
    """Reads `corpus.jsonl` back."""
    with path.open(encoding="utf-8") as stream:
        return [Document(**json.loads(line)) for line in stream]


def main() -> None:
    """Command line: builds the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--site", type=Path, required=True, help="a site-packages folder to take packages from"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    held_out: set[int] = set()
    for files in held_out_modules().values():
        for path in files:
            held_out |= shingles(read_text(path) or "")
    refused: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    documents = select(
        [*stdlib_documents(), *package_documents(arguments.site, refused)], held_out, dropped
    )
    write(arguments.out, documents, refused, dropped)
    logger.info(
        "%d files, %d bytes; dropped %s; refused %s",
        len(documents),
        sum(len(d.text) for d in documents),
        dict(dropped),
        sorted(refused),
    )


if __name__ == "__main__":
    main()
