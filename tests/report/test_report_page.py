"""The report in a real browser, from a file, at the sizes of a desktop and a phone, and printed."""

import pytest
from test_summary import write_run
from test_tensorboard import page  # noqa: F401  a fixture

from mpoxcv.evaluation.summary import summarise
from mpoxcv.report.report import write_report

pytestmark = pytest.mark.slow


def test_the_page_opens_offline_without_errors_or_horizontal_scroll(page, tmp_path):  # noqa: F811
    for fold in range(1, 6):
        for model in ("a<b>&", "b"):
            write_run(tmp_path, fold, skill=1 + (model == "b"), overrides=[f"model={model}"])
    write_report(summarise([tmp_path]), tmp_path / "out")
    errors, requests = [], []
    page.on(
        "console",
        lambda message: (
            errors.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    for width, height in ((1280, 900), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        page.goto(f"file://{tmp_path / 'out/report.html'}")
        page.locator("figure img").first.wait_for(timeout=30_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("figure img[src^='data:image/svg+xml;base64,']").count() == 9
        assert page.get_by_text("model=a<b>&").first.is_visible()
    heads = page.locator("table.sortable").first.locator("th")
    heads.nth(2).click()
    assert heads.nth(2).get_attribute("aria-sort") == "ascending"
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    assert errors == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requests)
