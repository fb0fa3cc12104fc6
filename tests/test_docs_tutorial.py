"""``docs/tutorial.md``: its commands are run, with a server, simulated devices and a watcher in their terminals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.howto import ROOT, blocks, commands
from tests.terminals import Desk

DOCUMENT = ROOT / "docs" / "tutorial.md"

pytestmark = pytest.mark.timeout(240, method="signal")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    try:
        yield desk
    finally:
        desk.close()


def test_the_tutorial_is_what_happens(desk: Desk) -> None:
    desk.follow(DOCUMENT.read_text("utf-8"))
    told = [command.line for block in blocks(DOCUMENT) if block.info[:7] == "console" for command in commands(block)]
    assert desk.ran == [line for line in told if not line.startswith(desk.LEFT_OUT)]
    assert len(desk.ran) > 15
    assert not desk.last_words, "the document does not say what a program printed in the end"


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", DOCUMENT.read_text("utf-8"))
    assert links
    assert [link for link in links if not (DOCUMENT.parent / link).exists()] == []
