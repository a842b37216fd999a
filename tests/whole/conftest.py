"""The tool as its users call it: small real trainings on digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from undistill.cli.main import main
from whole.commands import SMALL, Outcome, Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Call `undistill …` in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(ended.value.code if isinstance(ended.value.code, int) else 0, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `train`; never changed."""
    out = tmp_path_factory.mktemp("whole") / "teacher"
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", "digits", "--model", "cnn", *SMALL, "-o", str(out)])
    assert ended.value.code == 0
    return out
