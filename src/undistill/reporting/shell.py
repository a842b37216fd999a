"""What every page shares: its policy, the charts' scripts, styles and templates. A page loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from undistill.reporting.theme import CONFIG


def page(**filling: Any) -> str:
    """The self-contained page of a document; `filling` is what its template asks for."""
    vega, script = _vega(), asset("document.js")
    return (
        _environment()
        .get_template("document.html.j2")
        .render(
            policy=_policy(vega, script),
            css=Markup(asset("document.css")),  # noqa: S704
            vega=Markup(vega),  # noqa: S704
            script=Markup(script),  # noqa: S704
            config=inline_json(CONFIG),
            json=inline_json,
            **filling,
        )
    )


def inline_json(values: object) -> Markup:
    """JSON that no script element can be left from: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


@cache
def asset(name: str) -> str:
    """A file of this package."""
    return files("undistill.reporting").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Nothing may be fetched; no script runs but these, known by their hashes. Vega writes inline styles and pictures are data."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, from the installed package."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["ticks"] = ticks
    return environment


def ticks(text: str) -> Markup:
    """Escaped text whose `words in back-ticks` are set as code; a number and its % stay on one line."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text).replace(" %", "\u00a0%"))))  # noqa: S704
