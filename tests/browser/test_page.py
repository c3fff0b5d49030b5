"""The page, as a visitor sees it."""

import json
import re
import shlex
import time
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser import samples
from tests.browser.reports import SETTINGS, report
from tests.support.command import tidings
from tests.support.conditions import eventually
from tests.support.receiver import SECRET, Receiver
from tests.support.tidings_process import TidingsProcess, serving
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

pytestmark = pytest.mark.asyncio(loop_scope="session")

WIDEST = "document.documentElement.scrollWidth"

COUNT_TRIES = """
    window.tries = 0;
    window.ways = [];
    new MutationObserver(() => {
      const state = document.querySelector("#connection").dataset.state;
      if (state === "waiting") tries++;
      if (state === "open") ways.push(document.querySelector("#connection-text").textContent);
    }).observe(document.querySelector("#connection"), { attributes: true, attributeFilter: ["data-state"] });
"""

STEPS = """
    const seen = window.seen = [];
    new MutationObserver(() => {
      const text = document.querySelector("#detail .line .status").textContent;
      if (text !== seen.at(-1)) seen.push(text);
    }).observe(document.querySelector("#detail"), { subtree: true, childList: true, characterData: true });
"""


async def visit(page: Page, service: TidingsProcess, where: str = "") -> None:
    """Open the page, and wait until it is connected."""
    await page.goto(f"{service.url}/{where}")
    await expect(page.locator("#connection")).to_have_attribute("data-state", "open")


def card(page: Page, text: str) -> Locator:
    """The card of the prediction with this prompt."""
    return page.locator(".card", has_text=text)


async def test_a_prediction_goes_through_its_states(page: Page, service: TidingsProcess) -> None:
    """Card, timeline, logs and picture of a prediction follow its reports without a reload."""
    await visit(page, service, "#live-1")
    detail = page.locator("#detail")
    await expect(detail.locator("h2")).to_have_text("Not there yet")
    await report(
        service,
        "live-1",
        "starting",
        prompt="a heron on stilts",
        model="demo/pictures",
        owner="ada",
    )
    await expect(detail.locator("h2")).to_have_text("a heron on stilts")
    await expect(detail.locator(".line .status")).to_have_text("Starting")
    await report(service, "live-1", "processing", logs="first line\n", progress=0.25)
    await expect(detail.locator(".share")).to_have_text("25 %")
    await expect(card(page, "a heron on stilts").locator(".status")).to_have_text("Processing")
    await report(
        service,
        "live-1",
        logs="first line\nsecond line\n",
        imageUrl="https://pictures.example/1.png",
    )
    await expect(detail.locator(".lines")).to_have_text("first line\nsecond line\n")
    await expect(detail.locator(".outputs img")).to_have_attribute(
        "src", "https://pictures.example/1.png"
    )
    await report(
        service,
        "live-1",
        "succeeded",
        imageUrl="https://pictures.example/2.png",
        generationTime=1500,
    )
    await expect(detail.locator(".line .status")).to_have_text("Succeeded")
    await expect(detail.locator(".steps .status")).to_have_text(
        ["Starting", "Processing", "Succeeded"]
    )
    await expect(detail.locator(".outputs img")).to_have_attribute(
        "src", "https://pictures.example/2.png"
    )
    await expect(detail.get_by_role("button", name="Cancel")).to_be_hidden()
    await expect(page.locator("#announcer")).to_have_text("a heron on stilts: Succeeded")
    picture = card(page, "a heron on stilts").locator("img")
    await expect(picture).to_have_js_property("naturalWidth", 1)
    await expect(picture).to_have_attribute("referrerpolicy", "no-referrer")


async def test_a_group_and_attempts(page: Page, service: TidingsProcess) -> None:
    """A group shows how many of its members have ended, and a member which one tries it again."""
    log = await open_log(f"sqlite:///{next(service.folder.rglob('log.db'))}")
    try:
        order = {"provider": "acme", "model": "m", "prompt": "a heron of many"}
        said = {
            "type": "create",
            "kind": "group",
            "status": "processing",
            "members": ["flock.0", "flock.1"],
            "orders": [{**order, "retries": 1}, order],
            "memberStatus": "qq",
        }
        await log.append(EVENTS, [NewRecord(b"flock", json.dumps(said).encode())])
        await visit(page, service, "#flock")
        status = page.locator("#detail .line .status")
        await expect(status).to_have_text("Processing · 0 of 2")
        await report(service, "flock.1", "succeeded")
        await expect(status).to_have_text("Processing · 1 of 2")
        card = page.locator('.card a[href="#flock"]')
        await expect(card.locator(".status")).to_have_text("Processing · 1 of 2")
        await report(service, "flock.0", "failed", error="no GPU was free")
        await page.goto(f"{service.url}/#flock.0")
        await expect(status).to_have_text("Failed · attempt 1 of 2")
        await expect(page.locator("#detail dl.facts")).to_contain_text("flock")
        attempts = page.locator("#detail .attempts li")
        await expect(attempts).to_have_count(2)
        await expect(attempts.first).to_contain_text("no GPU was free")
        # The two have one card, which shows the newest; from its panel the former one is reached.
        await expect(page.locator(".card a", has_text="a heron of many")).to_have_count(2)
        assert await page.locator('.card a[href="#flock.0"]').count() == 0
        shown = page.locator(".card a[aria-current]")
        await expect(shown.locator(".howmany")).to_have_text("attempt 2 of 2")
        await attempts.nth(1).locator("a").click()
        await expect(status).to_have_text("Starting · attempt 2 of 2")
        await attempts.first.locator("a").click()
        await expect(page.locator("#detail .id")).to_have_text("flock.0")
    finally:
        await log.close()


async def test_a_prediction_without_logs(page: Page, service: TidingsProcess) -> None:
    """While it runs there are none yet; once it has ended there are none."""
    await report(service, "silent", "processing")
    await page.goto(f"{service.url}/#silent")
    for status, words in (("processing", "Nothing yet."), ("succeeded", "No logs.")):
        await report(service, "silent", status)
        await page.wait_for_function(
            """(words) => {
                const lines = document.querySelector("#detail .lines");
                return lines && getComputedStyle(lines, "::before").content === JSON.stringify(words);
            }""",
            arg=words,
        )


@pytest.mark.outage  # the service ends before the page does
async def test_what_other_servers_are_not_told_yet(page: Page, tmp_path: Path) -> None:
    """An admin sees which server is told, what it answered, and when it is tried again."""
    receiver = Receiver()
    async with receiver.serving():
        pass  # its port is known now, and nobody listens there
    settings = {
        **SETTINGS,
        "TIDINGS_NOTIFY_SECRET": SECRET,
        "TIDINGS_NOTIFY": receiver.url,
        "TIDINGS_NOTIFY_ALLOW": receiver.allowed,
    }
    async with serving(tmp_path, settings) as service:
        await report(service, "told-1", "succeeded", prompt="a heron")
        await visit(page, service, "#told-1")
        waiting = page.locator("#detail .deliveries li")
        await expect(waiting).to_contain_text("prediction.succeeded")
        await expect(waiting).to_contain_text(f"{receiver.allowed} · 1 try · it cannot be reached")
        await expect(waiting.locator(".due")).to_contain_text("again in")


async def test_the_raw_record_keeps_numbers(page: Page, service: TidingsProcess) -> None:
    """The raw record shows a number beyond 2^53 as it came."""
    await report(
        service, "raw-1", "processing", payload={"seed": 17454220438242315174, "scale": 7.0}
    )
    await visit(page, service, "#raw-1")
    await page.get_by_text("Raw record").click()
    await expect(page.locator(".raw")).to_contain_text('"seed": 17454220438242315174')
    await expect(page.locator(".raw")).to_contain_text('"scale": 7.0')


async def test_filters(page: Page, service: TidingsProcess) -> None:
    """Status, owner, model and words narrow what is shown, live, and stand in the address."""
    await report(service, "f-1", "processing", prompt="red kite", owner="grace", model="demo/one")
    await report(
        service,
        "f-2",
        "succeeded",
        prompt="blue kite",
        owner="grace",
        model="demo/two",
        output="done",
    )
    await report(
        service,
        "f-3",
        "failed",
        prompt="green kite",
        owner="edsger",
        model="demo/two",
        error="no wind",
    )
    await visit(page, service)
    form, prompts = page.locator("#filters"), page.locator(".card .prompt")
    await form.get_by_label("Id or words").fill("kite")
    await expect(prompts).to_have_text(["green kite", "blue kite", "red kite"])
    await form.get_by_label("Owner").fill("grace")
    await expect(prompts).to_have_text(["blue kite", "red kite"])
    await form.get_by_label("Processing").check(force=True)
    await expect(prompts).to_have_text(["red kite"])
    await report(service, "f-1", "succeeded", output="done as well")
    await expect(prompts).to_have_count(0)
    await expect(page.locator("#empty")).to_have_text("Nothing matches these filters.")
    await form.get_by_label("Succeeded").check(force=True)
    await expect(prompts).to_have_text(["blue kite", "red kite"])
    await form.get_by_label("Model").fill("demo/two")
    await expect(prompts).to_have_text(["blue kite"])
    await page.reload()
    await expect(prompts).to_have_text(["blue kite"])
    await page.goto(f"{service.url}/?text=f-3")
    await expect(prompts).to_have_text(["green kite"])
    await expect(card(page, "green kite").locator(".frame")).to_have_text("no wind")


async def test_cancel(page: Page, service: TidingsProcess) -> None:
    """A prediction that no provider can be asked about is marked canceled, after a question."""
    await report(service, "c-1", "processing", prompt="a long wait")
    await visit(page, service, "#c-1")
    await page.get_by_role("button", name="Mark canceled").click()
    question = page.get_by_role("dialog", name="Mark this prediction as canceled?")
    await expect(question).to_contain_text("goes to the dead letters")
    await question.get_by_role("button", name="Keep it").click()
    await expect(page.locator("#detail .line .status")).to_have_text("Processing")
    await page.get_by_role("button", name="Mark canceled").click()
    await question.get_by_role("button", name="Mark canceled").click()
    await expect(page.locator("#detail .line .status")).to_have_text("Canceled")
    await expect(page.locator("#detail .steps .status")).to_have_text(
        ["Starting", "Processing", "Canceled"]
    )


async def test_a_deletion_shows(page: Page, service: TidingsProcess) -> None:
    """A deleted prediction leaves the gallery, and its own view says so."""
    await report(service, "d-1", "processing", prompt="gone tomorrow")
    await visit(page, service, "#d-1")
    await expect(card(page, "gone tomorrow")).to_be_visible()
    assert (
        await page.evaluate(
            "fetch('api/predictions/d-1', {method: 'DELETE'}).then((answer) => answer.status)"
        )
        == 204
    )
    await expect(card(page, "gone tomorrow")).to_have_count(0)
    await expect(page.locator("#detail h2")).to_have_text("Deleted")


@pytest.mark.outage
async def test_a_lost_connection_is_said(page: Page, own_service: TidingsProcess) -> None:
    """While the service is away a banner stays, over one prediction on a phone too, and clocks stand still."""
    await report(own_service, "o-1", "processing", prompt="a long way")
    await page.set_viewport_size({"width": 390, "height": 800})
    await visit(page, own_service, "#o-1")
    banner = page.locator("#offline")
    await expect(banner).to_be_hidden()
    await own_service.kill()
    await expect(banner).to_contain_text(re.compile("Disconnected, (retrying in|connecting)"))
    await expect(banner).to_contain_text("What you see is as of")
    assert await page.evaluate("""() => {
      const { x, y } = document.querySelector("#offline").getBoundingClientRect();
      return Boolean(document.elementFromPoint(x + 20, y + 10).closest("#offline"));
    }""")
    spent = page.locator("#detail .steps .spent").last
    stands = await spent.text_content()
    before = await page.locator("#offline-text").text_content()
    await expect(page.locator("#offline-text")).not_to_have_text(before or "")
    assert await spent.text_content() == stands
    await page.evaluate(COUNT_TRIES)
    for _ in range(5):  # more than a network that blocks WebSockets would be tried
        await page.get_by_role("button", name="Retry now").click()
        await eventually(lambda: page.evaluate("tries > 0 && (tries = 0, true)"))
    await own_service.start()
    await expect(banner).to_be_hidden()
    await expect(page.locator("#connection-text")).to_have_text("Live")
    assert await page.evaluate("ways") == ["Live"]  # by WebSocket at once, not by event stream


@pytest.mark.outage
async def test_the_service_is_killed(page: Page, own_service: TidingsProcess) -> None:
    """While the service is away the page says so; afterwards it shows the newest, and never anything older."""
    await report(own_service, "k-1", "processing", prompt="a steady hand", logs="one\n")
    await visit(page, own_service, "#k-1")
    await expect(page.locator("#detail .lines")).to_have_text("one\n")
    await page.evaluate(STEPS)
    await own_service.kill()
    await expect(page.locator("#connection")).not_to_have_attribute("data-state", "open")
    await expect(page.locator("#detail .line .status")).to_have_text("Processing")
    await own_service.start()
    await report(own_service, "k-1", "succeeded", logs="one\ntwo\n", output="steady")
    await expect(page.locator("#detail .line .status")).to_have_text("Succeeded")
    await expect(page.locator("#detail .lines")).to_have_text("one\ntwo\n")
    await expect(page.locator("#connection")).to_have_attribute("data-state", "open")
    assert await page.evaluate("seen") in (["Succeeded"], ["Processing", "Succeeded"])


async def test_strangers_text_stays_text(page: Page, service: TidingsProcess) -> None:
    """Markup in any field of a record is shown, never run; only http(s) addresses become pictures and links."""
    evil = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'>"
    fields = dict.fromkeys(("prompt", "model", "owner", "logs", "error", "provider"), evil)
    await report(
        service,
        "x-1",
        "failed",
        **fields,
        tags=[evil],
        payload={evil: evil},
        imageUrl="javascript:window.ran=3",
    )
    await report(
        service,
        "x-2",
        "succeeded",
        prompt="x-two",
        output=["data:text/html,<script>window.ran=4</script>"],
    )
    await visit(page, service, "#x-1")
    await page.get_by_text("Raw record").click()
    await expect(page.locator(".raw")).to_contain_text("onerror")
    await expect(page.locator("#detail h2")).to_have_text(evil)
    await expect(page.locator("#detail .lines")).to_have_text(evil)
    await expect(card(page, "x-two").locator(".excerpt")).to_contain_text("data:text/html")
    assert (
        await page.locator("#detail img, #gallery img[src^=javascript], #gallery script").count()
        == 0
    )
    assert await page.evaluate("window.ran") is None


async def test_keyboard(page: Page, service: TidingsProcess) -> None:
    """Everything is reached by keys: the search, a card, the next one, and the way back."""
    await report(service, "key-1", "succeeded", prompt="keyed: below", output="one")
    await report(service, "key-2", "succeeded", prompt="keyed: above", output="two")
    await visit(page, service)
    await page.keyboard.press("/")
    await page.keyboard.type("keyed")
    await expect(page.locator(".card")).to_have_count(2)
    await card(page, "above").locator("a").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#detail h2")).to_have_text("keyed: above")
    await expect(page.locator("#detail")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.locator("#detail button", has_text="✕")).to_be_focused()
    await page.keyboard.press("j")
    await expect(page.locator("#detail h2")).to_have_text("keyed: below")
    await expect(card(page, "below").locator("a")).to_have_attribute("aria-current", "true")
    await page.keyboard.press("Escape")
    await expect(page.locator("#detail")).to_be_hidden()
    await expect(card(page, "below").locator("a")).to_be_focused()


async def test_health(page: Page, service: TidingsProcess) -> None:
    """The figures of the service and its parts are there, with words for those who do not see charts."""
    await visit(page, service)
    for part in ("changes", "store", "processor"):
        await expect(page.locator("#parts .right", has_text=part)).to_have_attribute(
            "title", "ready"
        )
    sessions = page.locator("#tiles > div", has_text="Sessions")
    await expect(sessions.locator("b")).to_have_text(re.compile("[1-9]"))
    await expect(sessions.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("now [1-9]")
    )
    lag = page.locator("#tiles > div", has_text="Lag")
    await expect(lag.locator("b")).to_have_text("0")
    await expect(lag.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("events that wait in the log: now 0")
    )
    await expect(page.locator("#elsewhere")).to_be_hidden()
    await expect(
        page.get_by_role("button", name="New prediction")
    ).to_be_hidden()  # nothing can be submitted here


async def test_narrow(page: Page, service: TidingsProcess) -> None:
    """On a phone nothing is wider than the screen, and a prediction takes all of it."""
    await report(service, "n-1", "failed", prompt="w" * 300, error="x" * 400, logs="y" * 400)
    await page.set_viewport_size({"width": 360, "height": 740})
    await visit(page, service)
    await expect(card(page, "wwww")).to_be_visible()
    assert await page.evaluate(WIDEST) <= 360
    await card(page, "wwww").locator("a").click()
    await expect(page.locator("#detail h2")).to_be_visible()
    assert await page.evaluate(WIDEST) <= 360
    box = await page.locator("#detail").bounding_box()
    assert box is not None
    assert box["width"] == 360


async def many(folder: Path, count: int) -> None:
    """Append so many predictions that have succeeded, a millisecond apart."""
    start = int(time.time() * 1000) - 1_000_000
    for first in range(0, count, 1000):
        await samples.append(
            folder,
            [
                NewRecord(
                    b"m-%05d" % number,
                    b'{"status":"%s","at":%d,"prompt":"bird number %d","output":"seen"}'
                    % (b"failed" if number % 10 == 0 else b"succeeded", start + number, number),
                )
                for number in range(first, min(count, first + 1000))
            ],
        )


@pytest.mark.outage  # the service ends before the page does
async def test_a_long_list_has_an_end(page: Page, own_service: TidingsProcess) -> None:
    """Counts are those of the store, older ones come until all are there, and words and ids find what is not here."""
    await many(own_service.folder, 1500)
    async with httpx.AsyncClient(base_url=own_service.url, trust_env=False) as http:

        async def all_there() -> bool:
            answer = await http.get("/api/predictions?limit=1&count=true")
            return bool(answer.json()["counts"]["total"] == 1500)

        await eventually(all_there, 30)
    await visit(page, own_service)
    extent, cards = page.locator("#extent"), page.locator(".card")
    await expect(extent).to_have_text("200 of 1,500")
    await expect(page.locator('[data-count=""]')).to_have_text("1,500")
    await expect(page.locator('[data-count="failed"]')).to_have_text("150")
    for shown in (400, 800, 1500):
        await page.get_by_role("button", name="Show older").click()
        await expect(cards).to_have_count(shown)
    await expect(page.get_by_role("button", name="Show older")).to_be_hidden()
    await expect(extent).to_have_text("1,500 predictions")
    await page.goto(f"{own_service.url}/?text=m-00007")
    await expect(page.locator(".card .prompt")).to_have_text(["bird number 7"])
    await page.get_by_role("button", name="Clear filters").click()
    await expect(extent).to_have_text("200 of 1,500")
    assert page.url == f"{own_service.url}/"
    await page.locator("#filters").get_by_label("Id or words").fill("bird number 123")
    await expect(extent).to_have_text("11 found")
    await page.locator("#filters").get_by_label("Failed").check(force=True)
    await expect(page.locator(".card .prompt")).to_have_text(["bird number 1230"])


@pytest.mark.outage  # the service ends before the page does
async def test_a_service_without_predictions_says_how_to_make_one(
    page: Page, own_service: TidingsProcess
) -> None:
    """Where nothing is yet, three lines are shown that make something appear, and they do."""
    await visit(page, own_service)
    await expect(page.locator("#welcome")).to_be_visible()
    lines = (await page.locator("#welcome pre").inner_text()).splitlines()
    assert len(lines) == 3
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "tidings"
        done = await tidings(own_service.folder, *arguments)
        assert done.code == 0, done.err
    await expect(card(page, "my first prediction").locator(".status")).to_have_text("Succeeded")
    await expect(page.locator("#welcome")).to_be_hidden()


async def test_a_question_is_answered(page: Page, service: TidingsProcess) -> None:
    """It stands on the card and in the detail with its choices or a field; then with the answer, whoever gave it."""
    question = {"text": "Which one?", "choices": ["red", "blue"]}
    await report(service, "asks-1", "processing", prompt="a door", waiting=True, question=question)
    await visit(page, service, "#asks-1")
    asks = page.locator("#detail .asks")
    await expect(asks.locator(".question")).to_have_text("Which one?")
    await expect(card(page, "a door").locator(".status")).to_have_text("Waiting for an answer")
    await expect(asks.locator("form")).to_be_hidden()
    await asks.get_by_role("button", name="blue").click()
    await expect(asks.locator(".said")).to_contain_text("blue")
    await expect(asks.locator(".choices")).to_be_hidden()
    await expect(card(page, "a door").locator(".status")).to_have_text("Processing")

    await report(service, "asks-1", waiting=True, question="And how <b>wide</b>?")
    await expect(asks.locator(".question")).to_have_text("And how <b>wide</b>?")
    await asks.get_by_label("Your answer").fill("very")
    await asks.get_by_role("button", name="Answer").click()
    await expect(asks.locator(".said")).to_contain_text("very")

    await report(service, "asks-1", waiting=True, question="x" * 40_000)
    await expect(asks.locator(".question")).to_have_text("x" * 40_000)
    await expect(asks.get_by_label("Your answer")).to_have_value("")
    await report(service, "asks-1", "succeeded")
    await expect(asks.locator(".said")).to_contain_text("Nobody answered")
    await expect(asks.locator("form")).to_be_hidden()


async def test_an_answer_that_comes_too_late(page: Page, service: TidingsProcess) -> None:
    """Somebody else was first: the page shows whose answer counts."""
    await report(service, "asks-2", "processing", waiting=True, question="Go on?")
    await visit(page, service, "#asks-2")
    asks = page.locator("#detail .asks")
    await asks.get_by_label("Your answer").fill("no")
    async with httpx.AsyncClient(base_url=service.url) as client:
        said = {"answer": "yes", "questionNumber": 1}
        assert (await client.post("/api/predictions/asks-2/answer", json=said)).status_code == 200
    await expect(asks.locator(".said")).to_contain_text("yes")
    await expect(asks.locator("form")).to_be_hidden()
