"use strict";
// What all pages share: times in the reader's own zone, and keys. Every view works without it.
(() => {
  const two = (number) => String(number).padStart(2, "0");
  const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const date = (at) => `${two(at.getMonth() + 1)}-${two(at.getDate())}`;

  function localise(root) {
    const now = new Date().toDateString();
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const hours = "short" in time.dataset ? clock(at).slice(0, 5) : clock(at);
      time.textContent = at.toDateString() === now ? hours : `${date(at)} ${hours}`;
      time.title = time.dateTime;
    }
  }

  function step(selector, by) {
    const items = [...document.querySelectorAll(selector)].filter((item) => item.getClientRects().length);
    if (!items.length) return;
    const at = items.findIndex((item) => item === document.activeElement || item.contains(document.activeElement));
    const next = items[at < 0 ? (by > 0 ? 0 : items.length - 1) : Math.min(items.length - 1, Math.max(0, at + by))];
    const target = next.matches("tr") ? next.querySelector("a") : next;
    target.focus({ preventScroll: true });
    next.scrollIntoView({ block: next.matches("tr") ? "nearest" : "start" });
  }

  let problem = -1;
  function nextProblem() {
    const links = document.querySelectorAll("a[data-problem]");
    if (!links.length) return;
    problem = (problem + 1) % links.length;
    const target = document.querySelector(links[problem].hash);
    reveal(target);
    target?.focus({ preventScroll: true });
    target?.scrollIntoView({ block: "start" });
  }

  function reveal(target) {
    for (let at = target?.closest("details"); at; at = at.parentElement?.closest("details")) at.open = true;
  }

  function unfold() {
    const folds = [...document.querySelectorAll("main details")];
    const open = folds.some((fold) => !fold.open);
    for (const fold of folds) fold.open = open;
  }

  const views = { l: "/", c: "/conversations", o: "/overview", h: "/health" };
  let leader = false;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key === "Escape" && typing) return void typing.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (leader) {
      leader = false;
      if (views[event.key]) window.location.href = views[event.key];
      return;
    }
    if (event.key === "g") leader = true;
    else if (event.key === "/") {
      event.preventDefault();
      document.querySelector("form.filters input")?.focus();
    } else if (event.key === "j") step("[data-item]", 1);
    else if (event.key === "k") step("[data-item]", -1);
    else if (event.key === "e") nextProblem();
    else if (event.key === "x") unfold();
  });

  document.addEventListener("DOMContentLoaded", () => {
    localise(document);
    const zone = document.querySelector("[data-zone]");
    if (zone) zone.textContent = `in your own zone (${Intl.DateTimeFormat().resolvedOptions().timeZone})`;
    const keys = document.querySelector("[data-keys]");
    if (keys) keys.hidden = false;
    if (window.location.hash) reveal(document.getElementById(window.location.hash.slice(1)));
  });
  window.addEventListener("hashchange", () => reveal(document.getElementById(window.location.hash.slice(1))));
  window.agentTelemetry = { localise };
})();
