"""The reporter shows what the library logs, for as long as a verb runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from undistill.cli.progress import Reporter

LOG = logging.getLogger("undistill.oracle.bank")


@pytest.fixture(autouse=True)
def library() -> Iterator[logging.Logger]:
    """The library's logger, put back as it was."""
    log = logging.getLogger("undistill")
    level, handlers = log.level, list(log.handlers)
    yield log
    log.setLevel(level)
    log.handlers[:] = handlers


def test_a_reporter_shows_the_librarys_log(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        LOG.debug("bank: too much")
        LOG.info("bank: %d passes [bold]kept[/bold]", 3)
        LOG.warning("bank: damaged")
    shown = capsys.readouterr()
    assert shown.err == "bank: 3 passes [bold]kept[/bold]\nbank: damaged\n"
    assert shown.out == ""


def test_a_long_line_is_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        LOG.info("bank: %s", "word " * 60)
    assert capsys.readouterr().err.count("\n") == 1


def test_quiet_hides_what_goes_well_and_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True) as reporter:
        LOG.info("bank: 3 passes kept")
        LOG.warning("bank: damaged")
        reporter.say("done")
    assert capsys.readouterr().err == "bank: damaged\n"


def test_other_libraries_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        logging.getLogger("datasets").info("theirs")
    assert "theirs" not in capsys.readouterr().err


def test_a_reporter_leaves_when_its_verb_ends(library: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(library.handlers)
    with Reporter() as reporter:
        assert reporter in library.handlers
    assert library.handlers == before
    with pytest.raises(ZeroDivisionError), Reporter():
        _ = 1 / 0
    assert library.handlers == before
    LOG.info("bank: later")
    assert capsys.readouterr().err == ""


def test_the_second_reporter_shows_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter():
        pass
    with Reporter():
        LOG.info("bank: once")
    assert capsys.readouterr().err == "bank: once\n"
