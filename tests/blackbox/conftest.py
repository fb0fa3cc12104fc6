"""One server for each module; what a test opened is closed after it, and the server has to be well then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite(
    "kit",
    "kit_crash",
    "kit_device",
    "kit_events",
    "kit_flood",
    "kit_http",
    "kit_people",
    "kit_raw",
    "kit_server",
    "kit_wire",
)

from kit import World  # noqa: E402

# Each of these tests may be ended alone: they run in the main thread, where a signal reaches them.
LIMIT = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound the synchronous tests; a limit that a test gives itself counts."""
    for item in items:
        if "blackbox" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT, method="signal"))


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server started with what the module's ``SERVER`` says."""
    world = World(tmp_path_factory.mktemp("server"), **getattr(request.module, "SERVER", {}))
    try:
        yield world
    finally:
        world.close()


@pytest.fixture(autouse=True)
def well_after(world: World) -> Iterator[None]:
    yield
    world.end_test()
    world.check()
