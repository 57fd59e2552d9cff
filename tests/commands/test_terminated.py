"""SIGTERM, as batch systems and containers send it, cleans up like an interrupt; a program that handles it itself goes on so."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from geluless import cli
from geluless.commands.result import ExitCode, Result
from geluless.files import atomic_output, one_run_in


class Verb:
    """`try`, which is in the middle of writing when the signal comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.reached = False

    def add_parser(self, verbs: Any) -> None:
        parser = verbs.add_parser("try")
        parser.add_argument("--json", action="store_true")
        parser.set_defaults(run=self.run)

    def run(self, options: argparse.Namespace) -> Result:
        with one_run_in(self._folder, name="run"), atomic_output(self._folder / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGTERM)
            self.reached = True
        return Result({}, lambda console: None)


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verb:
    made = Verb(tmp_path)
    monkeypatch.setattr(cli, "VERBS", (made,))
    return made


def test_a_terminated_command_leaves_nothing_half_written(verb: Verb, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["try"]) == ExitCode.TERMINATED == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "geluless: terminated\n"
    assert not verb.reached
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_program_s_own_handler_is_left_alone(verb: Verb, tmp_path: Path) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        assert cli.main(["try"]) == ExitCode.OK
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert seen == [signal.SIGTERM]
    assert (tmp_path / "a.bin").read_bytes() == b"half"


def test_outside_the_main_thread_no_handler_is_set(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda process, number: None)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["try"])))
    thread.start()
    thread.join()
    assert codes == [ExitCode.OK]
