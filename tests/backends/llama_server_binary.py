"""A `llama-server` program for tests: its command line, over the server that the wheel embeds."""

from __future__ import annotations

import argparse
import os
import sys
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    texts = ("--model", "--alias", "--host")
    numbers = ("--port", "--parallel", "--ctx-size", "--cache-ram", "--n-gpu-layers")
    for name in texts:
        parser.add_argument(name, required=True)
    for name in numbers:
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--kv-unified", action="store_true")
    options = parser.parse_args()
    if "crash" in options.alias:
        os.abort()
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames, params.port = [options.host], options.port
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    params.n_parallel, params.n_ctx = options.parallel, options.ctx_size
    params.kv_unified = options.kv_unified
    server = xllamacpp.Server(params)
    sys.stderr.write(f"at {server.listening_address}\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
