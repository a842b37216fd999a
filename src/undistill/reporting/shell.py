"""What every page shares: its policy, the charts' scripts, styles and templates. A page loads nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from undistill.reporting.blocks import inline_json
from undistill.reporting.theme import CONFIG


def page(
    template: str,
    *,
    styles: tuple[str, ...] = ("page.css",),
    scripts: tuple[str, ...] = ("page.js",),
    **filling: Any,
) -> str:
    """A self-contained page from a template, style sheets and scripts of this package."""
    vega, script = _vega(), "\n".join(map(asset, scripts))
    return (
        _environment()
        .get_template(template)
        .render(
            policy=_policy(vega, script),
            css=Markup("\n".join(map(asset, styles))),  # noqa: S704
            vega=Markup(vega),  # noqa: S704
            script=Markup(script),  # noqa: S704
            config=inline_json(CONFIG),
            **filling,
        )
    )


@cache
def asset(name: str) -> str:
    """A file of this package by its path in it, or `report/FILE` of the documents' package."""
    package = "undistill" if name.startswith("report/") else "undistill.reporting"
    return files(package).joinpath(name).read_text(encoding="utf-8")


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
    environment.filters["prose"] = lambda text: text.replace(" %", "\u00a0%")  # a number and its unit stay on one line
    environment.filters["ticks"] = ticks
    return environment


def ticks(text: str) -> Markup:
    """Escaped text whose `words in back-ticks` are set as code; a number and its % stay on one line."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text).replace(" %", "\u00a0%"))))  # noqa: S704
