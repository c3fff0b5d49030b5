"""Word to other servers by the running service: over real ports, through kills."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import webhooks
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.providers.faulty_stand_in import FaultyStandIn
from tests.support.providers.work import at_work
from tests.support.receiver import SECRET, Receiver
from tests.support.tidings_process import serving
from tests.support.webhooks import reaches, signed

ALL = ["starting", "processing", "succeeded"]


def settings(receiver: Receiver, **more: str) -> dict[str, str]:
    """Of a service that may tell this receiver."""
    return {
        "TIDINGS_NOTIFY_SECRET": SECRET,
        "TIDINGS_NOTIFY_ALLOW": receiver.allowed,
        "TIDINGS_REPLICATE_SECRET": webhooks.SECRET,
        **more,
    }


def everything_in(folder: Path) -> bytes:
    """The bytes of all files."""
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_an_order_names_who_is_told(tmp_path: Path) -> None:
    """The server that an order names hears of each step it asked for; nobody reads its address."""
    async with (
        Receiver().serving() as receiver,
        FaultyStandIn(duration=0.2, steps=2, seed=1) as at,
        at_work(tmp_path, at, settings(receiver)) as work,
    ):
        order = {"webhook": receiver.url, "webhookEvents": list(reversed(ALL))}
        made = await work.create(**order)
        await work.becomes(made["predictionId"], "succeeded")
        names = [f"prediction.{one}" for one in ALL]
        await receiver.reaches(made["predictionId"], *names)
        record = await work.becomes(made["predictionId"], "succeeded")
        assert record["webhook"] == {"host": receiver.allowed}
        assert record["webhookEvents"] == ALL
        assert "top-secret" not in json.dumps(record)
    assert b"top-secret" not in everything_in(tmp_path)


async def test_a_group_tells_of_itself_and_its_members(tmp_path: Path) -> None:
    """A group's webhook is its members', too, but of those that name another, or none; all are sealed."""
    async with (
        Receiver().serving() as receiver,
        FaultyStandIn(duration=0.1, steps=1, seed=1) as at,
        at_work(tmp_path, at, settings(receiver)) as work,
    ):
        other = receiver.url.replace("/hook/", "/other/")
        orders = [{}, {"webhook": other, "webhookEvents": ["processing"]}, {"webhook": None}]
        body = {"provider": "replicate", "model": "m/n", "webhook": receiver.url, "orders": orders}
        answer = await work.client.post("/api/predictions", json={**body, "group": "cats"})
        assert answer.status_code == 201, answer.text
        await work.becomes("cats", "succeeded")
        await receiver.reaches("cats", "group.succeeded")
        await receiver.reaches("cats.0", "prediction.succeeded")
        await receiver.reaches("cats.1", "prediction.processing")
        assert "webhook" not in await work.get("cats.2")
        assert receiver.of("cats.2") == []
        bad = {**body, "orders": [{"webhook": "http://example.com/x"}]}
        answer = await work.client.post("/api/predictions", json=bad)
        assert (answer.status_code, "https alone" in answer.text) == (422, True)
    assert b"top-secret" not in everything_in(tmp_path)


async def test_readers_see_the_host_alone(tmp_path: Path) -> None:
    """No answer, frame, list, export, dead letter or webhook holds the address, not even encrypted."""
    async with (
        Receiver().serving() as receiver,
        FaultyStandIn(duration=0.1, steps=1, seed=1) as at,
        at_work(tmp_path, at, settings(receiver)) as work,
    ):
        receiver.answers = [410]  # makes a dead letter of the first
        heard: dict[str, str] = {}

        async def ask(method: str, path: str, **more: Any) -> str:
            answer = await work.client.request(method, path, **more)
            assert answer.status_code < 300, answer.text
            heard[f"{method} {path}"] = answer.text
            return answer.text

        order = {"webhook": receiver.url, "webhookEvents": ["failed"]}
        made = await work.create(payload={"duration": 600}, timeout=300, **order)
        heard["create"] = json.dumps(made)
        one = made["predictionId"]
        base = f"/api/predictions/{one}"
        await work.becomes(one, "failed")
        body = {"provider": "replicate", "model": "m/n", "orders": [{}], "group": "cats", **order}
        await ask("POST", "/api/predictions", json=body)
        group = await work.becomes("cats", "succeeded")
        await ask("GET", f"/api/predictions/cats/blobs/{group['orders']['$blob']}")
        orders = json.loads(heard.popitem()[1])
        assert orders[0]["webhook"] == {"host": receiver.allowed}
        heard["orders"] = json.dumps(orders)
        await ask("PATCH", base, json={"logs": "more"})
        await ask("POST", f"{base}/retry")
        for path in (base, f"{base}?fields=webhook", f"{base}/events", "/api/predictions"):
            await ask("GET", path)
        await ask("GET", "/api/predictions?format=ndjson")
        await ask("GET", "/api/predictions?kind=group")
        await ask("GET", "/api/stats")
        heard["socket"] = "".join(await frames(work.service.port, one, "cats"))

        async def lies_there() -> bool:
            return bool(json.loads(await ask("GET", "/api/dead-letters"))["count"])

        await eventually(lies_there, 10)
        told = {"TIDINGS_LOG": f"sqlite:////{tmp_path}/log.db"}
        ended = await tidings(tmp_path, "dead-letters", "export", "-", settings=told)
        assert ended.code == 0, ended.err
        heard["export"] = ended.out
        heard["webhooks"] = json.dumps(receiver.taken)
    sealed = set(re.findall(rb'"sealed":"([A-Za-z0-9_-]+)"', everything_in(tmp_path)))
    assert sealed  # it lies in the log
    for name, text in heard.items():
        assert "sealed" not in text or "********" in text, name
        assert not [one for one in sealed if one.decode() in text], name
    hosts = [name for name, text in heard.items() if f'"host":"{receiver.allowed}"' in text]
    assert {f"GET {base}", "GET /api/predictions", "socket", f"POST {base}/retry"} <= set(hosts)


async def frames(port: int, *names: str) -> list[str]:
    """What a session is told of these predictions as they stand."""
    found: list[str] = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{port}/api/ws", protocols=["tidings.v1"]) as socket,
    ):
        await socket.send_json({"type": "subscribe", "ref": 1, "predictions": list(names)})
        while not found or '"synced"' not in found[-1]:
            found.append(await socket.receive_str(timeout=10))
    return found


async def test_only_orders_of_a_group_may_name_webhooks(tmp_path: Path) -> None:
    """Statuses that a group shares go to orders with webhooks of their own; the group tells nobody."""
    async with (
        Receiver().serving() as receiver,
        FaultyStandIn(duration=0.1, steps=1, seed=1) as at,
        at_work(tmp_path, at, settings(receiver)) as work,
    ):
        body = {
            "provider": "replicate",
            "model": "m/n",
            "webhookEvents": ["succeeded"],
            "orders": [{"webhook": receiver.url}],
            "group": "cats",
        }
        answer = await work.client.post("/api/predictions", json=body)
        assert answer.status_code == 201, answer.text
        await receiver.reaches("cats.0", "prediction.succeeded")
        group = await work.becomes("cats", "succeeded")
        assert not {"webhook", "webhookEvents"} & group.keys()


async def test_a_retry_tells_the_same_server(tmp_path: Path) -> None:
    """The attempt after a failed one, and the group after a failed group, keep webhook and statuses."""
    async with (
        Receiver().serving() as receiver,
        FaultyStandIn(duration=0.1, steps=1, seed=1) as at,
        at_work(tmp_path, at, settings(receiver)) as work,
    ):
        order = {"webhook": receiver.url, "webhookEvents": ["failed"]}
        made = await work.create(payload={"duration": 600}, timeout=300, **order)
        body: dict[str, Any] = {"provider": "replicate", "model": "m/n", **order}
        body |= {"payload": {"duration": 600}, "timeout": 300, "orders": [{}], "group": "cats"}
        answer = await work.client.post("/api/predictions", json=body)
        assert answer.status_code == 201, answer.text
        for name in (made["predictionId"], "cats"):
            await work.becomes(name, "failed")
            answer = await work.client.post(f"/api/predictions/{name}/retry")
            assert answer.status_code == 201, answer.text
            successor = answer.json()["data"]["predictionId"]
            record = await work.becomes(successor, "failed")
            assert record["webhookEvents"] == ["failed"]
            kind = record.get("kind", "prediction")
            await receiver.reaches(successor, f"{kind}.failed")
    assert b"top-secret" not in everything_in(tmp_path)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"webhook": "https://127.0.0.1/x"}, "loopback"),
        ({"webhook": "http://example.com/x"}, "https alone"),
        ({"webhook": 7}, "a URL"),
        ({"webhookEvents": ["succeeded"]}, "name that too"),
        ({"webhook": "https://example.com/x", "webhookEvents": []}, "starting, processing"),
        ({"webhook": "https://example.com/x", "webhookEvents": ["done"]}, "starting, processing"),
    ],
)
async def test_addresses_that_cannot_be_are_refused(
    tmp_path: Path, order: dict[str, Any], said: str
) -> None:
    """An address or a status that cannot be is 422 with the reason, and nothing is begun."""
    async with (
        Receiver().serving() as receiver,
        FaultyStandIn(duration=0.2, steps=2, seed=1) as at,
        at_work(tmp_path, at, settings(receiver)) as work,
    ):
        body = {"provider": "replicate", "model": "m/n", "prompt": "x", **order}
        answer = await work.client.post("/api/predictions", json=body)
        assert answer.status_code == 422
        assert said in answer.json()["detail"]
        assert not at.jobs


async def test_without_a_secret_nobody_is_told(tmp_path: Path) -> None:
    """A service that signs nothing refuses an order that names an address, with the remedy."""
    async with FaultyStandIn(duration=0.2, steps=2, seed=1) as at, at_work(tmp_path, at) as work:
        body = {"provider": "replicate", "model": "m/n", "webhook": "https://example.com/x"}
        answer = await work.client.post("/api/predictions", json=body)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "webhooks-not-configured")
        assert "TIDINGS_NOTIFY_SECRET" in problem["detail"]


async def test_kills_lose_no_word(tmp_path: Path) -> None:
    """A service that is killed again and again tells of every end, in order, repeats with the same id."""
    async with Receiver().serving() as receiver:
        more = {"TIDINGS_NOTIFY": receiver.url, "TIDINGS_NOTIFY_EVENTS": "processing,succeeded"}
        async with (
            aiohttp.ClientSession() as session,
            serving(tmp_path, settings(receiver, **more)) as service,
        ):
            sent = 0
            for round_ in range(4):
                for _ in range(25):
                    for status in ("processing", "succeeded"):
                        body = webhooks.report(f"p{sent}", status=status)
                        async with session.post(
                            f"{service.url}/api/webhooks/replicate",
                            data=body,
                            headers=signed(body),
                        ) as answer:
                            assert answer.status == 200
                    sent += 1
                if round_ < 3:
                    await service.kill()
                    await service.start()
            await reaches(session, service.url, f"p{sent - 1}", "succeeded")

            def all_told() -> bool:
                return all(
                    receiver.of(f"p{n}")[-1:] == ["prediction.succeeded"] for n in range(sent)
                )

            await eventually(all_told, 30)
    ids: dict[str, set[str]] = {}
    for message_id, told in receiver.taken:
        key = f"{told['data']['predictionId']} {told['type']}"
        ids.setdefault(key, set()).add(message_id)
    assert all(len(one) == 1 for one in ids.values())
    assert len(ids) == 2 * sent
    for n in range(sent):
        types = list(dict.fromkeys(receiver.of(f"p{n}")))
        assert types == ["prediction.processing", "prediction.succeeded"]


async def test_an_outage_of_the_receiver_is_caught_up(tmp_path: Path) -> None:
    """What ended while the receiver was away is told when it is back, and the page's figures say what waits."""
    receiver = Receiver()
    async with receiver.serving():
        pass
    async with (
        aiohttp.ClientSession() as session,
        serving(tmp_path, settings(receiver, TIDINGS_NOTIFY=receiver.url)) as service,
    ):
        body = webhooks.report("p1", status="succeeded")
        async with session.post(
            f"{service.url}/api/webhooks/replicate", data=body, headers=signed(body)
        ) as answer:
            assert answer.status == 200

        async def waiting() -> bool:
            async with session.get(f"{service.url}/api/stats") as answer:
                figures = (await answer.json())["data"]["notifier"]
            return bool(figures["waiting"] == 1 and figures["failed"] >= 1)

        await eventually(waiting, 15)
        async with receiver.serving():
            await receiver.reaches("p1", "prediction.succeeded", within=20)


@pytest.mark.long
async def test_operators_see_what_waits_and_who_is_off(tmp_path: Path) -> None:
    """`/api/deliveries` and `doctor` name hosts, tries and reasons; `erase` takes away what waits."""
    away = Receiver()
    async with away.serving():
        pass  # its port is known now, and nobody listens there
    async with Receiver().serving() as gone, aiohttp.ClientSession() as session:
        gone.answers = [410]
        both = {
            "TIDINGS_NOTIFY": f"{gone.url},{away.url}",
            "TIDINGS_NOTIFY_ALLOW": f"{gone.allowed},{away.allowed}",
            "TIDINGS_STANDARD_SECRET": SECRET,
        }
        chosen = settings(gone, **both)
        async with serving(tmp_path, chosen) as service:
            for name in ("p1", "p2"):
                fields = {"predictionId": name, "status": "succeeded", "owner": "ann"}
                body = json.dumps(fields).encode()
                async with session.post(
                    f"{service.url}/api/webhooks/standard", data=body, headers=signed(body)
                ) as answer:
                    assert answer.status == 200
                await reaches(session, service.url, name, "succeeded")

            async def deliveries(query: str = "") -> dict[str, Any]:
                async with session.get(f"{service.url}/api/deliveries{query}") as answer:
                    assert answer.status == 200
                    found: dict[str, Any] = await answer.json()
                return found

            async def tried() -> bool:
                found = await deliveries()
                tries = sum(one["attempts"] > 0 for one in found["data"])
                return bool(
                    tries and found["switchedOff"] and found["waiting"] == {away.allowed: 2}
                )

            await eventually(tried, 20)
            found = await deliveries("?prediction=p1&limit=1")
            (one,) = found["data"]
            assert one["host"] == away.allowed
            assert one["type"] == "prediction.succeeded"
            assert "cannot be reached" in one["error"]
            assert one["due"] > one["since"]
            (off,) = found["switchedOff"]
            assert (off["host"], "410" in off["reason"]) == (gone.allowed, True)
            assert "top-secret" not in json.dumps(found)
            async with session.get(f"{service.url}/api/deliveries?limit=0") as answer:
                assert answer.status == 400
            ended = await tidings(tmp_path, "doctor", "--json", settings=chosen)
            (part,) = [one for one in ended.json["parts"] if one["part"] == "notifications"]
            assert part["state"] == "warning"
            for words in (gone.allowed, "410", "redrive", f"2 for {away.allowed}"):
                assert words in part["says"]
            erased = await tidings(
                tmp_path, "erase", "--owner", "ann", "--yes", "--json", settings=chosen
            )
            counts = {one["place"]: one["count"] for one in erased.json["traces"]}
            assert counts["topic predictions.deliveries: webhooks that wait"] == 2
            assert counts["topic predictions.dead-letters"] == 2

            async def nothing_waits() -> bool:
                return not (await deliveries())["waiting"]

            await eventually(nothing_waits, 20)
