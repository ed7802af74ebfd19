"""The page loads nothing from elsewhere; in a browser a mark changes the list, which says what moved and why."""

import pathlib
import re
import shutil
import socket
import threading
import time

import pytest
from fastapi import testclient

from jaxneg.serve import models, server
from jaxneg.serve.scorer import Event

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = pathlib.Path("node_modules/axe-core/axe.min.js")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
LIST = ".column:nth-child({}) .list > li"
WIDTHS = {"wide": (1280, 900, "light"), "dark": (1280, 900, "dark"), "phone": (390, 844, "light")}


@pytest.fixture(scope="module")
def found(exported):
    return models.Models({"one": exported("tied"), "two": exported("with a like head")})


@pytest.mark.slow
def test_the_page_is_shown_without_a_token_and_loads_nothing_from_elsewhere(found):
    with testclient.TestClient(server.app(found, token="secret")) as client:
        page, *rest = (client.get(path) for path in server.FILES)
        assert "default-src 'self'" in page.headers["content-security-policy"]
        for answer in (page, *rest):
            assert answer.status_code == 200 and not re.search(
                r"(src|href|url|from|import)\W{1,3}(https?:)?//", answer.text
            )
        assert client.get("/models").status_code == client.get("/items").status_code == 401
        named = set(re.findall(r'(?:href|src)="([^"#:]+)"', page.text))
        assert {f"/{name}" for name in named} | {"/"} == {*server.FILES}
        script = rest[1].text
        assert {*re.findall(r'\$\("([a-z-]+)"\)', script)} <= {*re.findall(r' id="([a-z_-]+)"', page.text)}


def test_items_are_found_by_every_word_and_models_say_what_they_can(found):
    scorer = found.get("one").scorer
    names = scorer.items(10**6)
    artist = {item: scorer.attributes_of(item)["artist"] for item in names}
    with testclient.TestClient(server.app(found)) as client:
        wanted = artist[names[5]]
        answer = client.get(
            "/items", params={"text": f"{wanted.upper()}  song", "count": 100, "model": "one"}
        ).json()
        assert [one["item"] for one in answer["items"]] == [
            item for item in names if wanted in f"{item}\n{artist[item]}" and "song" in item
        ]
        assert answer["items"][0]["attributes"] == {"artist": wanted}
        assert [one["item"] for one in client.get("/items?count=7").json()["items"]] == names[:7]
        assert client.get("/items?text=none+such").json()["items"] == []
        one, two = client.get("/models").json()["models"]
        assert one["forms"] == {"rank": {}} and one["items"] == len(names) and one["attributes"] == ["artist"]
        assert set(two["forms"]) == {"rank", "judge", "sum", "demote"} and "beta" in two["forms"]["sum"]
        told = client.post("/recommend", json={"describe": True}).json()["recommendations"][0]
        assert told["attributes"] == {"artist": artist[told["item"]]}


@pytest.fixture(scope="module")
def address(found):
    import uvicorn

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        running = uvicorn.Server(uvicorn.Config(server.app(found), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
        thread.start()
        while not running.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


def until(page, read, wanted, seconds=30):
    """Waits until a script gives what is wanted; the page's policy lets the browser wait for none itself."""
    end = time.monotonic() + seconds
    while (found := page.evaluate(read)) != wanted:
        assert time.monotonic() < end, (found, wanted)
        page.wait_for_timeout(20)


def items_of(column):
    return f"[...document.querySelectorAll('{LIST.format(column)}')].map(row => row.dataset.item)"


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("width", WIDTHS)
def test_a_mark_changes_the_list_which_says_what_moved_and_why(width, address, browser, found):
    wide, high, scheme = WIDTHS[width]
    scorer, wrong = found.get("one").scorer, []
    context = browser.new_context(
        viewport={"width": wide, "height": high}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
    page.on("request", lambda one: None if one.url.startswith((address, "data:")) else wrong.append(one.url))

    def settled(history):
        """The list of the page, once it is the scorer's."""
        wanted = [one.item for one in scorer.recommend(history, 20, exclude_seen=True)]
        until(page, items_of(1), wanted)
        return wanted

    page.goto(address)
    before = settled([])
    # By the keyboard alone: search, down to the first item found, like it.
    name = scorer.items(9)[8]
    page.keyboard.press("/")
    page.keyboard.type(name)
    until(page, "document.querySelectorAll('#found li').length", 1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("l")
    history = [Event(name, "thumb_up")]
    liked = settled(history)
    # What the list says moved is what moved.
    told = page.eval_on_selector_all(
        "#columns .column:first-child .list > li",
        "rows => rows.map(row => row.querySelector('.place small').title)",
    )
    full = [one.item for one in scorer.recommend([], 200, exclude_seen=True)]
    for at, (item, said) in enumerate(zip(liked, told, strict=True)):
        by = full.index(item) - at
        assert said == (f"{'up' if by > 0 else 'down'} {abs(by)} from {full.index(item) + 1}" if by else "")
    # A rejection from within the list; the event that is named is one of the history.
    page.locator("#columns .list").first.locator("> li").nth(2).locator("[data-kind=play]").focus()
    page.keyboard.press("d")
    rejected = settled([*history, Event(liked[2], "thumb_down")])
    until(page, "document.querySelectorAll('.column:first-child .list summary').length", 20)
    reasons = page.eval_on_selector_all(
        ".column:first-child .list summary", "all => all.map(one => one.textContent)"
    )
    assert all(
        re.fullmatch(rf"[+−]\d+\.\d\d by ({name} liked|{liked[2]} thumbs down)", one) for one in reasons
    )
    assert rejected != liked and "up" in page.inner_text("#said")
    # Taken back.
    page.keyboard.press("z")
    assert settled(history) == liked
    if width != "phone":
        assert page.locator("#columns .column").count() == 2
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth") and before != liked
    if AXE.exists():
        page.evaluate(AXE.read_text())
        seen = page.evaluate("rules => axe.run(document, {runOnly: rules})", RULES)
        wrong += [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in seen["violations"]]
        assert wrong == [] and len(seen["passes"]) > 20
    assert wrong == []
    context.close()


@pytest.mark.slow
@pytest.mark.system
def test_the_weight_of_judging_ranks_anew(address, browser, found):
    scorer = found.get("two").scorer
    page = browser.new_page(reduced_motion="reduce")
    page.goto(address)
    page.wait_for_selector("#columns .list li")
    page.locator(".column:nth-child(2) .form").select_option("sum")
    page.locator("#found [data-kind=skip]").first.click()
    history = [Event(scorer.items(1)[0], "skip")]
    for place, beta in ((0, 0.0), (50, 1.0), (75, 10.0)):
        page.locator(".column:nth-child(2) .beta").fill(str(place))
        form = scorer.form("sum", beta=beta)
        wanted = [one.item for one in scorer.recommend(history, 20, exclude_seen=True, form=form)]
        until(page, items_of(2), wanted)
    assert "10.00" in page.inner_text(".column:nth-child(2) output")
