"""Headless Chromium, where one is installed; its pages watch themselves."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next((path for name in NAMES if (path := shutil.which(name))), None)
WHY_NOT = f"no Chromium: none of {', '.join(NAMES)} is on PATH"
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 20_000
_WATCH = """
window.__violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    window.__violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
# What of a document our templates never write.
_FOREIGN = """async (paths) => {
  const foreign = (read) => [...read.querySelectorAll("*")].flatMap((element) => {
    const bad = [...element.attributes].filter((each) =>
        /^(on|srcdoc)/.test(each.name) || (each.name === "style" && each.value));
    const address = element.getAttribute("href") ?? element.getAttribute("src") ?? "/";
    const own = /^[/#]/.test(address) && !address.startsWith("//");
    const inline = element.localName === "script" && !element.src;
    const odd = ["iframe", "object", "embed", "img", "base", "video", "audio", "math"]
        .includes(element.localName);
    return bad.length || !own || inline || odd ? [element.outerHTML.slice(0, 200)] : [];
  });
  const texts = await Promise.all(paths.map(async (path) => (await fetch(path)).text()));
  const read = texts.map((text) => new DOMParser().parseFromString(text, "text/html"));
  return (paths.length ? read : [document]).flatMap(foreign);
}"""


@dataclass
class Watched:
    """A page and what went wrong on it."""

    page: Page
    address: str
    faults: list[str] = field(default_factory=list)

    async def open(self, path: str, status: int = 200) -> None:
        answer = await self.page.goto(self.address + path)
        assert answer is not None
        assert answer.status == status, path

    async def wide(self) -> int:
        """How many pixels the page is wider than its window."""
        root = "document.documentElement"
        return await self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")

    async def foreign(self, *paths: str) -> list[str]:
        """Elements and attributes that can only come from a row: here, or on these pages."""
        return await self.page.evaluate(_FOREIGN, paths)

    async def violations(self) -> list[str]:
        return await self.page.evaluate("window.__violations")

    async def axe(self) -> list[str]:
        """Serious and critical findings of axe-core."""
        if not await self.page.evaluate("typeof window.axe === 'object'"):
            await self.page.evaluate(AXE_SCRIPT)
        found = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html'][:160]}: {node['failureSummary'][:300]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=PATH, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def watched(
    browser: Browser, address: str, *, width: int = 1600, theme: str = "light"
) -> AsyncIterator[Watched]:
    """A page of its own. Whatever a browser complains of, or asks elsewhere, is a fault."""
    context: BrowserContext = await browser.new_context(
        viewport={"width": width, "height": 1000 if width > 500 else 820},
        color_scheme=theme,
        reduced_motion="reduce",
    )
    try:
        await context.add_init_script(_WATCH)
        page = await context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        seen = Watched(page, address)
        page.on("console", lambda message: seen.faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: seen.faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: seen.faults.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(address)
                else seen.faults.append(f"request: {request.url}")
            ),
        )
        yield seen
        assert seen.faults == []
    finally:
        await context.close()
