"""What a scope says: the path below a mount, however its host writes it."""

import pytest

from tidings.gateway.asgi.scope import mount_of, mounted_path

ID = "/api/predictions/a%20b%2Fc"


def scope(path: str, raw: str | None, root: str = "") -> dict[str, object]:
    return {
        "path": path,
        "raw_path": None if raw is None else raw.encode(),
        "root_path": root,
    }


@pytest.mark.parametrize(
    ("given", "prefix", "path"),
    [
        pytest.param(scope("/api/ws", "/api/ws"), "", "/api/ws", id="not mounted"),
        pytest.param(scope("/p/api/ws", "/p/api/ws", "/p"), "", "/api/ws", id="starlette"),
        pytest.param(scope("/api/ws", "/api/ws", "/p"), "", "/api/ws", id="root without the path"),
        pytest.param(scope("/api/ws/", "/p/api/ws"), "/p", "/api/ws", id="litestar"),
        pytest.param(scope("/api/ws/", "/p/api/ws"), "", "/api/ws", id="litestar untold"),
        pytest.param(scope("/p/api/ws", "/p/api/ws"), "/p", "/api/ws", id="django"),
        pytest.param(scope("/p/api/ws", None, "/p"), "", "/api/ws", id="no raw path"),
        pytest.param(scope("/a/p/api/ws", "/a/p/api/ws", "/a"), "/p", "/api/ws", id="both"),
        pytest.param(scope("/pp/api", "/pp/api", "/p"), "", "/pp/api", id="another name"),
        pytest.param(scope("/p", "/p", "/p"), "", "/", id="the mount itself"),
        pytest.param(scope("/a b/x", "/a%20b/x", "/a b"), "", "/x", id="an encoded mount"),
        pytest.param(
            scope("/p/api/predictions/a b/c", "/p" + ID, "/p"), "", ID, id="an encoded id"
        ),
        pytest.param(
            scope("/api/predictions/a b/c", None), "", "/api/predictions/a%20b/c", id="lost"
        ),
    ],
)
def test_the_path_below_a_mount(given: dict[str, object], prefix: str, path: str) -> None:
    """Whatever a host leaves in the path, what is routed is the rest, encoded as the client sent it."""
    assert mounted_path(given, prefix) == path


def test_links_begin_with_the_mount() -> None:
    """A prefix that the root path holds already is not written twice."""
    assert mount_of(scope("/p/x", None, "/a/p"), "/p") == "/a/p"
    assert mount_of(scope("/p/x", None, "/a"), "/p") == "/a/p"
    assert mount_of(scope("/x", None)) == ""
