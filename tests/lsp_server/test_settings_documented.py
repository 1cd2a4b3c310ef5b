"""The settings table in editors/README.md names every setting with its default."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

from lsp_server.settings import Settings

README = Path(__file__).parents[2] / "editors" / "README.md"


def test_every_setting_is_documented_with_its_default():
    documented = {}
    for names, defaults in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", README.read_text(), re.M):
        found = re.findall(r"`(\w+)`", names)
        for name, default in zip(found, defaults.replace("`", "").split(", "), strict=True):
            documented[re.sub("([A-Z])", lambda m: "_" + m[1].lower(), name)] = json.loads(default)
    assert documented == json.loads(json.dumps(asdict(Settings())))
