"""What stands in the charts of a page."""

from playwright.sync_api import Locator, Page, expect


def drawn(page: Page) -> None:
    """Waits until every chart is drawn."""
    page.wait_for_selector("html[data-drawn=all]", state="attached")


def marks(page: Page, chart: str, kind: str) -> Locator:
    """The marks of a kind in a chart, without those of axes and legends."""
    return page.locator(f"#{chart} svg g.mark-{kind}.role-mark > *")


def points(page: Page, chart: str = "curve-ttft") -> list[str | None]:
    """Where the points of a curve stand."""
    return [one.get_attribute("transform") for one in marks(page, chart, "symbol").all()]


def told_at(page: Page, mark: Locator) -> str:
    """What the page tells of a mark that the pointer rests on."""
    mark.scroll_into_view_if_needed()
    tip = page.locator("#tip")
    for attempt in range(100):  # scrolling, which may go on for a moment, takes the words away
        box = mark.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2 + attempt % 2, box["y"] + box["height"] / 2)
        page.wait_for_timeout(100)
        if tip.is_visible():
            break
    expect(tip).to_be_visible()
    return tip.text_content() or ""
