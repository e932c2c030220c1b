"""HTML documents in one file, which fetch nothing and run only the script that they were written with."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from pathlib import Path

STYLESHEET = Path(__file__).with_name("style.css")


def render_document(title: str, body: str, styles: str = "", script: str = "") -> str:
    """Wrap the body of a page, with the report's style sheet, further rules and at most one script.

    The content security policy keeps a browser from fetching anything and from running anything but
    `script`, which it knows by its hash, whatever the body contains.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>\n{STYLESHEET.read_text(encoding='utf-8')}{styles}</style>"
    )
    last = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{body}</main>{last}</body></html>\n'
    )
