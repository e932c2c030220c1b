"""`python -m distill demo --run X` serves a page that makes images with a run's student and its teacher."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError
from distill.config.flags import add_computation

PORTS = range(7860, 7960)
"""Ports of which the first free one is taken."""
MAX_PORT = 65535


def main(arguments: list[str]) -> None:
    """Open a run's networks and serve their page until the command is interrupted."""
    options = _parse(arguments)
    with serving(options) as (blocks, url):
        print(f"{url} shows {options.run}; Ctrl-C ends it", flush=True)
        if blocks.share_url:
            print(f"{blocks.share_url} shows it to everybody who knows this address", flush=True)
        _wait_for_the_end()


@contextlib.contextmanager
def serving(options: argparse.Namespace) -> Iterator[tuple[Any, str]]:
    """Serve the page in this process's background, and yield it as gradio's `Blocks`, with its address.

    Files of images lie in a folder that is removed in the end.
    """
    from distill.publishing.demo.page import Page, import_gradio, look

    import_gradio()
    from distill.publishing.demo.networks import OpeningOptions, open_run, warm_up

    port = _choose_port(options.host, options.port)
    opening = OpeningOptions(options.device, options.dtype, options.resolution)
    shown = open_run(options.run, options.teacher, opening)
    for note in shown.notes:
        print(note, flush=True)
    with tempfile.TemporaryDirectory(prefix="distill-demo-") as folder, _gradio_files_in(folder):
        warm_up(shown, Path(folder) / "warm-up")
        page = Page(shown, Path(folder) / "images")
        page.blocks.queue(default_concurrency_limit=1)
        page.blocks.launch(
            server_name=options.host,
            server_port=port,
            share=options.share,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            enable_monitoring=False,
            run_history=False,
            num_workers=0,  # further processes would outlive this one
            **look(),
        )
        try:
            yield page.blocks, f"http://{_address(options.host)}:{port}"
        finally:
            page.blocks.close(verbose=False)


def _wait_for_the_end() -> None:
    """Wait until Ctrl-C or a request to terminate, after which files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@contextlib.contextmanager
def _gradio_files_in(folder: str) -> Iterator[None]:
    """Keep gradio's files in a folder, and its requests to its own page away from proxies."""
    own = ("localhost", "127.0.0.1", "::1")
    replaced = {
        "GRADIO_TEMP_DIR": folder,
        "NO_PROXY": ",".join([*filter(None, [os.environ.get("NO_PROXY")]), *own]),
    }
    before = {name: os.environ.get(name) for name in replaced}
    os.environ.update(replaced)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _choose_port(host: str, port: int | None) -> int:
    """Return the port, checked to be free, or the first free one."""
    reason = ""
    for candidate in PORTS if port is None else (port,):
        try:
            family = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            return candidate
        except OSError as error:
            reason = error.strerror or str(error)
    if port is None:
        raise UserError(
            f"--host {host}: none of its ports {PORTS[0]} to {PORTS[-1]} can be served ({reason})"
        )
    raise UserError(f"--port {port}: cannot be served at {host} ({reason}); expected a free port")


def _address(host: str) -> str:
    """Return the address at which this machine's browser finds a host."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill demo", "Serve a page that makes images with a run's student beside its teacher."
    )
    parser.add_argument(
        "--run", type=Path, required=True, help="run folder, checkpoint or export of a generator"
    )
    parser.add_argument(
        "--no-teacher",
        dest="teacher",
        action="store_false",
        help="leave the teacher out, which saves its memory (default: shown, if it can be opened)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve at; 0.0.0.0 lets other machines in (default: 127.0.0.1, this machine alone)",
    )
    parser.add_argument("--port", type=int, help="port to serve at (default: the first free one from 7860)")
    parser.add_argument(
        "--share",
        action="store_true",
        help="also serve the page to the internet, through a server of gradio's makers, for a week at most",
    )
    add_computation(parser)
    options = parser.parse_args(arguments)
    at_least(options, port=1, resolution=1)
    if options.port is not None and options.port > MAX_PORT:
        raise UserError(f"--port {options.port}: expected at most {MAX_PORT}")
    return options
