#!/usr/bin/env bash
# Fetches the editors that Debian stable has too old or not at all from Debian's unstable (sid),
# into a folder, with apt and no change to the system: Neovim 0.12, Vim 9.1 or later (llama.vim wants
# it), Helix, and Emacs' lsp-mode 10 (compiled, where Emacs is installed).
#
#     tests/e2e/fetch_sid_editors.sh FOLDER [SECONDS]
#
# Prints the lines of environment that let the tests find them. What sid does not have, or what
# does not run here, is told on stderr and left out: sid moves. Fails where nothing was fetched, or
# after SECONDS (300). Needs no root.
set -euo pipefail

folder=${1:?a folder is needed}
seconds=${2:-300}
if [ -z "${MIDSPAN_FETCH_BOUNDED:-}" ]; then
  export MIDSPAN_FETCH_BOUNDED=1
  exec timeout "$seconds" "$0" "$folder"
fi
case $(dpkg --print-architecture 2>/dev/null) in
  amd64) loader=usr/lib64/ld-linux-x86-64.so.2 ;;
  arm64) loader=usr/lib/ld-linux-aarch64.so.1 ;;
  *) echo "not a Debian of amd64 or arm64" >&2; exit 1 ;;
esac
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
apt=$folder/apt
mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/preferences.d}
: >"$apt/status" # nothing counts as installed: libraries come along, the C library too
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} sid main" \
  >"$apt/etc/sources.list"

private() {
  apt-get -qq \
    -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
    -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::Etc::preferencesparts="$apt/etc/preferences.d" -o APT::Sandbox::User= \
    -o Acquire::Languages=none -o Acquire::Retries=2 -o APT::Install-Recommends=false "$@"
}

# Packages and what they depend on, unpacked into a folder of their own: `unpacked FOLDER PACKAGE…`.
unpacked() {
  local root=$folder/$1 package
  shift
  rm -rf "$apt"/cache/archives/*.deb "${root:?}"
  private install -y --download-only "$@" >&2 || return 1
  mkdir -p "$root"
  for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$root" || return 1
  done
}

# A program of such a folder, bound to the folder's own C library, behind a command that sets the
# environment: `program FOLDER NAME SETTING…`. patchelf, because a program that is started through
# the loader by hand does not find itself, as Neovim does to start its server.
program() {
  local root=$folder/$1 name=$2 libraries
  shift 2
  libraries=$(dirname "$(find "$root/usr/lib" -name libc.so.6 | head -n 1)")
  cp "$root/usr/bin/$name" "$root/$name.program" &&
    "$root/$loader" --library-path "$libraries" "$root/usr/bin/patchelf" \
      --set-interpreter "$root/$loader" --force-rpath --set-rpath "$libraries" "$root/$name.program" ||
    return 1
  {
    echo '#!/bin/sh'
    for setting in "$@"; do printf 'export %s\n' "$setting"; done
    printf 'exec "%s" "$@"\n' "$root/$name.program"
  } >"$root/$name"
  chmod +x "$root/$name"
  "$root/$name" --version >/dev/null
}

found=0
say() { # the environment that a test needs
  printf 'export %s=%q\n' "$1" "$2"
  found=1
}

private update >&2

if unpacked nvim neovim patchelf && program nvim nvim "VIMRUNTIME=$folder/nvim/usr/share/nvim/runtime" \
  "LUA_CPATH='$(dirname "$(find "$folder/nvim/usr/lib" -path '*lua/5.1/*.so' | head -n 1)")/?.so;;'"; then
  say MIDSPAN_TEST_NVIM "$folder/nvim/nvim"
else
  echo "no Neovim from sid" >&2
fi

if unpacked vim vim patchelf && mv "$folder/vim/usr/bin/vim.basic" "$folder/vim/usr/bin/vim" &&
  program vim vim "VIMRUNTIME=$(echo "$folder"/vim/usr/share/vim/vim9*)"; then
  say MIDSPAN_TEST_VIM "$folder/vim/vim"
else
  echo "no Vim from sid" >&2
fi

if unpacked hx hx patchelf && program hx hx; then
  say MIDSPAN_TEST_HELIX "$folder/hx/hx"
else
  echo "no Helix from sid" >&2
fi

if command -v emacs >/dev/null && unpacked emacs elpa-lsp-mode; then
  lisp=$folder/emacs/usr/share/emacs/site-lisp/elpa-src
  # Compiled, or it takes a minute to load. What does not compile is loaded as it is.
  emacs --batch --eval "(dolist (d (directory-files \"$lisp\" t \"^[^.]\")) (add-to-list 'load-path d))" \
    -f batch-byte-compile "$lisp"/*/*.el >"$folder/emacs/compile.log" 2>&1 || true
  say MIDSPAN_TEST_LSP_MODE "$lisp"
else
  echo "no lsp-mode from sid, or no Emacs" >&2
fi

rm -rf "$apt"
[ "$found" = 1 ]
