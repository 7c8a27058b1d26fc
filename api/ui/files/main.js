// Starts the page: its two views, the stream of events, and the question for the key.

import { startChat } from "/ui/chat.js";
import { StatusView } from "/ui/status.js";
import { ask, getKey, Refused, setKey } from "/ui/server.js";
import { events } from "/ui/sse.js";
import { State } from "/ui/state.js";

const byId = (id) => document.getElementById(id);
const views = ["status", "chat"];
const AGAIN = 1000; // milliseconds until the stream is asked for again
const LATER = 15000; // the same where it was refused
const SILENT = 5000; // milliseconds without an event, of which there is one each second

const state = new State();
const status = new StatusView(byId("status"), wantKey);
const chat = startChat(byId("chat"), wantKey);
let last = ""; // id of the last event
let stream = new AbortController();
let wake = () => {};
let heard = Infinity; // when the last event came

function show() {
  const asked = location.hash.replace(/^#\//, ""); // no id of the page, to which a browser would scroll
  const wanted = views.includes(asked) ? asked : "status";
  for (const view of views) byId(view).hidden = view !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${wanted}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function connection(word, live) {
  byId("connection").textContent = word;
  byId("connection").className = live ? "live" : "lost";
}

// ---- the key

function wantKey(why) {
  if (byId("ask").open) return;
  byId("why").textContent = why;
  byId("secret").value = getKey();
  byId("ask").showModal();
}

function answer(event) {
  event.preventDefault();
  setKey(byId("secret").value.trim());
  byId("secret").value = "";
  byId("ask").close();
  restart();
}

function restart() {
  last = "";
  stream.abort();
  wake();
  chat.refresh();
}

// ---- the events

async function follow() {
  for (;;) {
    let pause = AGAIN;
    try {
      await followOnce();
      connection("reconnecting", false);
    } catch (error) {
      pause = refused(error);
    }
    heard = Infinity;
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, pause);
    });
  }
}

async function followOnce() {
  if (document.hidden) return;
  stream = new AbortController();
  const headers = last ? { "last-event-id": last } : {};
  const response = await ask("GET", "/admin/events?status=1", { headers, signal: stream.signal });
  status.refusedBecause("");
  for await (const event of events(response)) {
    if (event.event === "message") return; // an error that ends the stream; the next one is refused with it
    heard = performance.now();
    connection("live", true);
    last = event.id || last;
    state.apply(event.event, JSON.parse(event.data), Date.now());
    status.show(state);
    if (event.event === "model" || event.event === "settings") chat.refresh();
  }
}

function refused(error) {
  if (!(error instanceof Refused)) {
    connection(stream.signal.aborted ? "paused" : "no connection", false);
    return AGAIN;
  }
  connection("not allowed", false);
  status.refusedBecause(error.message);
  if (error.status === 401) wantKey(error.message);
  return LATER;
}

setInterval(() => {
  if (performance.now() - heard > SILENT) connection("no news", false);
}, 1000);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stream.abort();
  else wake();
});
window.addEventListener("hashchange", show);
byId("ask").querySelector("form").addEventListener("submit", answer);
byId("later").addEventListener("click", () => byId("ask").close());
byId("key").addEventListener("click", () => wantKey(getKey() ? "This tab has a key." : "This tab has no key."));
show();
connection("connecting", false);
follow();
