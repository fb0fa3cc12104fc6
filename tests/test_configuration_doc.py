"""``docs/configuration.md`` is what ``make docs`` makes of ``devconf/config.py``, and the sample tells the same."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from attrs import fields

from devconf.config import Config, Limits, parse

ROOT = Path(__file__).parent.parent
SAMPLE = (ROOT / "etc" / "devconf.toml").read_text(encoding="utf-8")

KEYS = [("", item.name) for item in fields(Config) if item.name != "limits"]
KEYS += [("limits.", item.name) for item in fields(Limits)]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """``docs/make_configuration.py``, which is in no package."""
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_what_the_docstrings_say(maker: ModuleType) -> None:
    told = maker.PATH.read_text(encoding="utf-8")
    assert told == maker.document(), "docs/configuration.md is not up to date: run `make docs`"


def section(maker: ModuleType, key: str) -> str:
    _, _, rest = maker.document().partition(f"\n### `{key}`\n")
    return str(re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0])


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_every_key_has_a_section_and_its_example_is_about_it(maker: ModuleType, table: str, key: str) -> None:
    text = section(maker, key)
    assert re.search(r"^[A-Z][^\n]+\.$", text, re.MULTILINE), f"nothing is said of {key}"
    for example in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert changed(parse(example, "example")) == {table + key}


def changed(config: Config) -> set[str]:
    """The keys that do not have their defaults."""
    found = set()
    for table, key in KEYS:
        taken, default = (config.limits, Limits()) if table else (config, Config())
        if getattr(taken, key) != getattr(default, key):
            found.add(table + key)
    return found


def test_a_section_tells_type_bounds_and_default_in_words(maker: ModuleType) -> None:
    told = {key: section(maker, key).split("\n")[1] for _, key in KEYS}
    assert told["listen"] == '*A list of strings. Default: `["tcp:8080:interface=127.0.0.1"]`.*'
    assert told["public_url"] == "*A string. Default: not set.*"
    assert told["device_timeout"] == "*A number, more than 0, at most 3600. Default: `10.0`.*"
    assert told["trusted_proxies"] == "*A list of strings. Default: `[]`.*"
    assert told["store_conf_max"] == ("*An integer, 1 or more, at most 67108864 (64 MiB). Default: `1048576` (1 MiB).*")
    assert told["history_days"] == "*An integer, 1 or more, at most 36500. Default: `90`.*"


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_the_sample_tells_the_bounds_above_each_key(table: str, key: str) -> None:
    hint = get_type_hints(Limits if table else Config, include_extras=True)[key]
    (paragraph,) = [text for text in SAMPLE.split("\n\n") if re.search(rf"^#?{key} = ", text, re.MULTILINE)]
    comment = "\n".join(line for line in paragraph.split("\n") if line.startswith("# "))
    assert comment, f"nothing is said of {key}"
    if get_origin(hint) is Annotated:
        assert re.search(rf"\b{get_args(hint)[1].le}\b", comment)
