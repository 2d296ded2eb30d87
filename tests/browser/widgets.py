"""Controls of the explorer, worked as people work them."""

import time


def move_first_slider(page, picture) -> None:
    """Move the first slider by four steps, and wait until the picture is another one."""
    before = picture.get_attribute("src")
    page.locator(".widget-slider .noUi-handle").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    started = time.monotonic()
    while picture.get_attribute("src") == before:
        assert time.monotonic() - started < 20, "the picture did not move"
        page.wait_for_timeout(100)
