"""Uses the page of a running server in a real browser: page.py http://127.0.0.1:PORT ASSETS [SCREENSHOTS]"""

import pathlib
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

URL, ASSETS = sys.argv[1], pathlib.Path(sys.argv[2])
SHOTS = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
DROP = """([name, base64, type]) => {
  const bytes = Uint8Array.from(atob(base64), c => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.getElementById("form");
  const event = type === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  target.dispatchEvent(event);
}"""


def shot(page, name):
    if SHOTS:
        page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def put(page, name, kind):
    import base64

    encoded = base64.b64encode((ASSETS / name).read_bytes()).decode()
    page.evaluate(DROP, [name, encoded, kind])


def pictures(page):
    return page.get_by_role("list", name="Pictures of the question").get_by_role("listitem")


def asks(page):
    """Drop, paste and choose pictures, take one away, ask by keyboard, ask again, copy."""
    put(page, "cat.png", "drop")
    expect(pictures(page)).to_have_count(1)
    put(page, "dog-and-car.png", "paste")
    expect(pictures(page)).to_have_count(2)
    page.locator("#files").set_input_files([ASSETS / "three-apples.png"])
    expect(pictures(page)).to_have_count(3)
    for name in ["dog-and-car.png", "three-apples.png"]:
        page.get_by_role("button", name=f"Remove {name}").click()
    expect(pictures(page)).to_have_count(1)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("Type a question first.")).to_be_visible()
    prompt = page.get_by_label("Question", exact=True)
    prompt.fill("What is this?")
    prompt.press("Enter")
    answer = page.locator("article .answer").first
    expect(answer).to_contain_text("cat")
    expect(page.locator("article .note").first).to_contain_text("tokens")
    text = answer.inner_text()
    shot(page, "asked")
    page.get_by_role("button", name="Ask again").first.click()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("article .answer").first).to_have_text(text)
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name=re.compile("Copied|Selected"))).to_be_visible()
    page.reload()
    expect(page.locator("article .answer").first).to_have_text(text)
    page.get_by_role("button", name="Forget all questions").click()
    expect(page.locator("article")).to_have_count(0)
    page.reload()
    expect(page.get_by_text("owl2-tiny")).to_be_visible()
    expect(page.locator("article")).to_have_count(0)


def photographs(page):
    page.get_by_role("button", name="Camera", exact=True).click()
    page.get_by_role("button", name="Take the picture").click()
    expect(pictures(page)).to_have_count(1)
    page.get_by_role("button", name="Camera", exact=True).click()
    expect(page.locator("#video")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#video")).to_be_hidden()
    page.get_by_role("button", name="Remove camera.jpg").click()


def stops(page):
    """An answer that is under way can be stopped; what there is stays."""
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.get_by_label("Question", exact=True).fill("Hello")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_role("button", name="Stop").first.click()
    expect(page.locator("article .note").first).to_have_text("stopped")
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    page.unroute("**/v1/chat/completions")


def fails(page):
    """Each way in which a server fails is said in words."""
    broken = 'data: {"choices":[{"delta":{"content":"Half"}}]}\n\n'
    for respond, words in [
        (lambda route: route.abort(), "cannot be reached"),
        (lambda route: route.fulfill(status=429, headers={"Retry-After": "7"}, body='{"error":{"message":"full"}}'), "full (in 7 s)"),
        (lambda route: route.fulfill(status=500, body="no JSON"), "status 500"),
        (lambda route: route.fulfill(status=200, body=broken), "broke off"),
    ]:
        page.route("**/v1/chat/completions", respond)
        page.get_by_label("Question", exact=True).fill("Hello")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("article .note").first).to_contain_text(words)
        page.unroute("**/v1/chat/completions")
    shot(page, "failed")


def rates(page):
    page.get_by_role("tab", name="Ask").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Rate")).to_be_focused()
    names = ["cat.png", "dog-and-car.png", "three-apples.png"]
    page.locator("#score-files").set_input_files([ASSETS / name for name in names])
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(3)
    scores = [float(text.split()[0]) for text in page.locator("#rows td.number").all_inner_texts()]
    assert scores == sorted(scores, reverse=True), scores
    page.get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("cat.png")
    page.get_by_role("button", name="Name").click()
    expect(rows.first).to_contain_text("three-apples.png")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    lines = pathlib.Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "image,score,error" and len(lines) == 4, lines
    shot(page, "rated")


def fits(page):
    width = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width <= 0, f"{width} pixels wider than the window"


def main():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        n_passed = 0
        for scheme, width in [("light", 1200), ("dark", 360)]:
            context = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, permissions=["camera"]
            )
            page = context.new_page()
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: request.url.startswith((URL, "data:", "blob:")) or problems.append(request.url))
            page.on("console", lambda line: "Content Security Policy" in line.text and problems.append(line.text))
            page.goto(URL)
            expect(page.get_by_text("owl2-tiny")).to_be_visible()
            for test in [asks, photographs, stops, fails, rates]:
                test(page)
                fits(page)
                n_passed += 1
            assert not problems, problems
            context.close()
        browser.close()
    print(f"{n_passed} passed, 0 failed")


main()
