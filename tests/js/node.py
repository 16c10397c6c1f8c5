"""Run pieces of JavaScript with the package in scope."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from vae_export.explorer.server import PACKAGE_FOLDER

_PRELUDE = f"""
import * as bundle from {json.dumps((PACKAGE_FOLDER / "index.js").as_uri())};
import fs from "node:fs";
import {{ createRequire }} from "node:module";
const given = JSON.parse(fs.readFileSync(0));
const say = (value) => process.stdout.write(JSON.stringify(value));
"""


def run_module(node: str, code: str, given: object = None) -> Any:
    """Run a module with `bundle` and `given` in scope; return the JSON value that it passes to `say`."""
    result = subprocess.run(
        [node, "--input-type=module", "-e", _PRELUDE + code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
