# shellcheck shell=bash
# The environment of a GPU machine without a package registry, from what scripts/gpu/prepare gathered. Source it from
# bash, in any directory, before every command there:  . scripts/gpu/setup.sh
#
# The first time it installs .gpu/wheels into $GPU_SITE; later that takes no time, and the wheels need not be there.
# FlashInfer's compiled modules, .gpu/flashinfer_aot.tar.xz, join it there whenever they are seen.
# Pieces of a peer (.gpu/vllm/p0/part.00, ...) are kept under $GPU_PEERS whenever they are seen, so that they may come
# one at a time, and are unpacked into $GPU_PEERS/vllm/site when the last one has come. A peer's site is never on our
# own path: it goes to that peer's process alone.

export GPU_SITE=${GPU_SITE:-${TMPDIR:-/tmp}/bough-site}
export GPU_PEERS=${GPU_PEERS:-${TMPDIR:-/tmp}/bough-peers}
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
export FLASHINFER_WORKSPACE_BASE=${FLASHINFER_WORKSPACE_BASE:-${TMPDIR:-/tmp}}

_bough_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

_bough_install() {
  [ -e "$GPU_SITE/.complete" ] && return
  set -- "$_bough_root"/.gpu/wheels/*.whl
  [ -e "$1" ] || { echo "setup: no wheels in .gpu/wheels: run scripts/gpu/prepare where a registry answers" >&2; return 1; }
  rm -rf "$GPU_SITE"
  python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check \
    --no-index --no-deps --no-compile --no-cache-dir --target "$GPU_SITE" "$@" || return
  # Our own sources are used where they lie; what is installed of them is the name and the version.
  python3 - "$_bough_root/pyproject.toml" "$GPU_SITE" <<'PYTHON' || return
import pathlib, sys, tomllib
project = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())["project"]
folder = pathlib.Path(sys.argv[2], f"{project['name']}-{project['version']}.dist-info")
folder.mkdir()
(folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n")
PYTHON
  # The command in the form that the documentation uses.
  mkdir -p "$GPU_SITE/bin" &&
    printf '#!/bin/sh\nexec python3 -P -m bough.cli.main "$@"\n' >"$GPU_SITE/bin/bough" &&
    chmod +x "$GPU_SITE/bin/bough" && touch "$GPU_SITE/.complete"
}

_bough_flashinfer() {
  local archive=$_bough_root/.gpu/flashinfer_aot.tar.xz modules=$GPU_SITE/flashinfer/data/aot
  if [ -e "$archive" ] && [ -d "$GPU_SITE/flashinfer" ] && [ ! -e "$modules" ]; then
    rm -rf "$modules.part" && mkdir "$modules.part" && xz -dc "$archive" | tar x -C "$modules.part" &&
      mv "$modules.part" "$modules"
  fi
}

_bough_peer() { # NAME
  local parts=$GPU_PEERS/$1/parts site=$GPU_PEERS/$1/site
  [ -e "$GPU_PEERS/$1/.complete" ] && return
  mkdir -p "$parts" || return
  local piece
  for piece in "$_bough_root/.gpu/$1"/p*/*; do cp "$piece" "$parts/" || return; done
  (cd "$parts" && sha256sum --quiet --check SHA256SUMS >/dev/null 2>&1) ||
    { echo "setup: $1: $(cd "$parts" && echo part.*) of $(wc -l <"$parts/SHA256SUMS") parts are here" >&2; return 0; }
  rm -rf "$site" && mkdir -p "$site" && cat "$parts"/part.* | xz -dc -T0 | tar x -C "$site" &&
    touch "$GPU_PEERS/$1/.complete" && rm -r "$parts"
}

_bough_install || return
_bough_flashinfer || return
for _bough_folder in "$_bough_root"/.gpu/*/; do
  if compgen -G "$_bough_folder/p*/part.*" >/dev/null; then
    _bough_peer "$(basename "$_bough_folder")" || return
  fi
done

PYTHONPATH=$GPU_SITE
for _bough_folder in common kernels services lang demo load_tests protos/gen; do
  PYTHONPATH=$PYTHONPATH:$_bough_root/$_bough_folder
done
export PYTHONPATH
case :$PATH: in *:"$GPU_SITE/bin":*) ;; *) PATH=$GPU_SITE/bin:$PATH ;; esac

# SGLang compiles small kernels at its first start, and needs CUDA's headers and the driver's library for that.
if [ -d "$GPU_PEERS/sglang/site" ]; then
  CPATH=$(python3 -c 'import nvidia.cu13; print(list(nvidia.cu13.__path__)[0])')/include
  mkdir -p "$GPU_PEERS/sglang/lib"
  ln -sf "$(ldconfig -p | awk '/libcuda.so.1/ { print $NF; exit }')" "$GPU_PEERS/sglang/lib/libcuda.so"
  export CPATH LIBRARY_PATH=$GPU_PEERS/sglang/lib
fi
unset _bough_root _bough_folder
unset -f _bough_install _bough_flashinfer _bough_peer
