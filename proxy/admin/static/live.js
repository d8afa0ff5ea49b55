"use strict";
// Live rows: server-sent events into the list. The server has escaped every row; nothing is built here.
(() => {
  const ROWS_MAX = 200;
  const body = document.querySelector("[data-rows]");
  const list = document.querySelector("[data-list]");
  const empty = document.querySelector("[data-empty]");
  const state = document.querySelector("[data-state]");
  const stateText = document.querySelector("[data-state-text]");
  const button = document.querySelector("[data-pause]");
  let paused = false;
  let waiting = []; // rows that came while paused, oldest first
  let skipped = 0;
  let resetWhilePaused = null;

  function say(kind, text) {
    state.className = `state ${kind}`;
    if (stateText.textContent !== text) stateText.textContent = text;
  }

  function rowsOf(html) {
    const template = document.createElement("template");
    template.innerHTML = `<table><tbody>${html}</tbody></table>`;
    return [...template.content.querySelectorAll("tr[id]")];
  }

  function add(rows, isNew) {
    for (const row of rows) {
      document.getElementById(row.id)?.remove();
      if (isNew) row.classList.add("new");
      body.prepend(row);
    }
    while (body.rows.length > ROWS_MAX) body.lastElementChild.remove();
    show();
  }

  const began = (row) => row.querySelector("time")?.dateTime ?? "";

  // The latest rows anew; what began before them and is shown already stays below, wherever it stood.
  function reset(html) {
    const rows = rowsOf(html);
    const focused = document.activeElement?.closest?.("tr[id]")?.id;
    const ids = new Set(rows.map((row) => row.id));
    const isOlder = (row) => rows.length && !ids.has(row.id) && began(row) <= began(rows.at(-1));
    const kept = [...body.rows].filter(isOlder).sort((one, other) => began(other).localeCompare(began(one)));
    body.replaceChildren(...rows, ...kept);
    show();
    if (focused) document.getElementById(focused)?.querySelector("a")?.focus({ preventScroll: true });
  }

  function show() {
    const some = body.rows.length > 0;
    list.hidden = !some;
    empty.hidden = some;
    window.agentTelemetry.localise(body);
  }

  function report() {
    if (!paused) return;
    const number = waiting.length + skipped;
    say("paused", number ? `paused, ${number} new` : "paused");
  }

  function pause() {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Continue" : "Pause";
    if (paused) return report();
    if (resetWhilePaused !== null) reset(resetWhilePaused);
    resetWhilePaused = null;
    add(waiting, true);
    waiting = [];
    skipped = 0;
    say("on", "live");
  }

  button.hidden = false;
  button.addEventListener("click", pause);
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key === "p" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) pause();
  });

  const events = new EventSource(body.dataset.events);
  events.addEventListener("reset", (event) => {
    if (paused) return void (resetWhilePaused = event.data);
    reset(event.data);
    say("on", "live");
  });
  events.addEventListener("rows", (event) => {
    const rows = rowsOf(event.data).reverse();
    if (paused) {
      waiting.push(...rows);
      skipped += Math.max(0, waiting.length - ROWS_MAX);
      waiting = waiting.slice(-ROWS_MAX);
      report();
    } else {
      add(rows, true);
      say("on", "live");
    }
  });
  events.addEventListener("skipped", (event) => {
    if (paused) skipped += Number(event.data);
    else say("on", `live; ${Number(event.data)} more came than are shown`);
    report();
  });
  events.addEventListener("away", () => say("off", "the database does not answer; waiting for it"));
  events.addEventListener("error", () => say("off", "connection lost; trying again"));
  window.addEventListener("pagehide", () => events.close());
  window.addEventListener("pageshow", (event) => event.persisted && window.location.reload());
})();
