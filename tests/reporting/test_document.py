"""One document, four outputs: nothing raw, nothing lost, nothing wider than a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import altair as alt
import pytest

from undistill.reporting import export, render
from undistill.reporting.document import (
    Chart,
    Code,
    Columns,
    Details,
    Document,
    Facts,
    Format,
    Items,
    Note,
    Picture,
    Section,
    Statement,
    Table,
    Text,
    charts,
    table,
    tables,
)
from undistill.reporting.theme import finished

EVIL = "<script>alert(1)</script>"


def frame() -> Table:
    rows: list[dict[str, str | int | float | None]] = [
        {"name": f"`kd`, {EVIL}", "accuracy": 51.219, "low": 40.0, "high": 62.44, "n": 1200, "at": "docs/flags.md#kd"},
        {"name": "label-only", "accuracy": None, "low": None, "high": None, "n": 41, "at": "javascript:alert(1)"},
    ]
    columns = {
        "name": Format("attack", link="at"),
        "accuracy": Format(unit="%", digits=1, interval=("low", "high")),
        "n": Format("test images"),
    }
    return table("attacks", "What each `attack` got.", rows, columns, sortable=True)


def document() -> Document:
    spec = finished(
        alt.Chart(alt.Data(values=[{"x": 1, "y": 2}]))
        .mark_point()
        .encode(x="x:Q", y="y:Q")
        .properties(width="container"),
        "one point",
    )
    chart = Chart("points", "Points by `x`", spec, "A caption.", [("one", "var(--series-1)", "circle")], frame())
    lead = (
        Columns(
            (
                (Statement("What to do", "Serve `top1` only.", ("undistill audit m --access top1",)),),
                (chart,),
            )
        ),
        Note(f"Mind `this` {EVIL}"),
    )
    body = (
        Text("See the list of flags.", "quiet", {"list of flags": "docs/flags.md"}),
        Items(("one", "two")),
        Facts({"`δ`": "2 points"}),
        Code((f"echo '{EVIL}'",)),
        Picture("data:image/png;base64,AAAA", "a digit"),
        Details("More", (Table("flat", "Flat.", {"a": [1]}, {"a": Format()}),)),
    )
    return Document(
        "An audit of `normal`",
        lead,
        (Section("All of it", "all", body, folded=True),),
        {"suite": "quick"},
        ("undistill …",),
    )


def test_no_back_tick_and_no_markup_of_a_name_reaches_the_page() -> None:
    page = render.html(document())
    shown = page[page.index("<body>") : page.index('<script type="application/json" id="chart-config"')]
    assert EVIL not in shown
    assert "`" not in shown
    assert "<code>top1</code>" in shown


def test_only_harmless_addresses_become_links() -> None:
    page = render.html(document())
    assert "javascript:alert" not in page
    assert '<a href="docs/flags.md#kd">' in page
    assert '<a href="docs/flags.md">list of flags</a>' in page


@pytest.mark.parametrize("width", [80, 60])
def test_text_is_never_wider_than_the_terminal(width: int) -> None:
    for line in render.text(document(), width=width).splitlines():
        assert len(line) <= width or "undistill audit" in line or "echo" in line


def test_a_wide_table_loses_its_spreads_and_is_then_turned() -> None:
    def lines(numbers: int) -> list[str]:
        names = [f"network-{place}" for place in range(numbers)]
        rows = [{"who": who, "sd": "± 0.31 (3)"} | dict.fromkeys(names, 61.25) for who in ("normal", "nasty")]
        columns = {"who": Format()} | {name: Format(digits=2, note="sd") for name in names}
        return render.table_text(table("wide", "Wide.", rows, columns)).splitlines()

    assert lines(3)[1:] == [f"{who:<6}" + "  61.25 ± 0.31 (3)" * 3 for who in ("normal", "nasty")]
    assert lines(6)[0].startswith("(numbers alone")
    assert lines(6)[2].split() == ["normal", *["61.25"] * 6]
    assert len(lines(12)) == 13
    assert lines(12)[1].split() == ["network-0", *["61.25", "±", "0.31", "(3)"] * 2]
    assert max(map(len, lines(6) + lines(12))) <= 80


def test_a_table_of_too_many_columns_becomes_records() -> None:
    names = [f"accuracy-of-number-{n}" for n in range(12)]
    wide = Table("wide", "Wide.", {name: [1.5] for name in names}, {name: Format(digits=1) for name in names})
    assert max(map(len, render.table_text(wide).splitlines())) <= 80
    assert "accuracy-of-number-11: 1.5" in render.table_text(wide)


def test_json_keeps_values_that_are_rounded_or_not_shown() -> None:
    text = json.dumps(render.values(document()), allow_nan=False)
    assert "51.219" in text
    assert '"high": 62.44' in text


def test_markdown_links_and_tables(tmp_path: Path) -> None:
    text = render.markdown(document(), {"points": "figures/points.svg"})
    assert "![Points by `x`](figures/points.svg)" in text
    assert "[list of flags](docs/flags.md)" in text
    assert EVIL not in text.replace(f"echo '{EVIL}'", "")


def test_a_document_is_written_the_same_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        export.write(document(), tmp_path / name)
    for file in ("index.html", "report.md", "report.json", "figures/points.svg"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_every_table_and_chart_is_found_wherever_it_is() -> None:
    assert [found.name for found in tables(document())] == ["attacks", "flat"]
    assert [found.name for found in charts(document())] == ["points"]


def test_a_format_without_its_column_is_refused() -> None:
    with pytest.raises(ValueError, match="low"):
        Table("t", "T.", {"a": [1.0]}, {"a": Format(interval=("low", "high"))})
    with pytest.raises(ValueError, match="lengths"):
        Table("t", "T.", {"a": [1.0], "b": []}, {"a": Format()})


def test_missing_values_and_whole_numbers() -> None:
    assert render.value_text(None, Format()) == "–"
    assert render.value_text(1200, Format()) == "1,200"
    assert render.value_text(-0.04, Format(digits=1)) == "0.0"
    assert render.value_text(1.25, Format(digits=1, signed=True)) == "+1.2"


def test_a_number_and_its_percent_sign_stay_on_one_line() -> None:
    said = Statement("Users", "lose 0.4 % of accuracy, " * 20)
    lines = render.text(Document("A title", (said,)), width=33).splitlines()
    assert max(map(len, lines)) <= 33
    assert not any(line.startswith("%") for line in lines)
