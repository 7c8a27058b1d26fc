// The view of the server: figures, workers, models, requests, crashes, decisions about memory, and changes.

import { el, keyed } from "/ui/dom.js";
import { ago, bytes, count, percent, seconds } from "/ui/format.js";
import { badge, bar, ModelRow } from "/ui/models.js";
import { sparkline } from "/ui/sparkline.js";

const SHOWN = 20; // of the last requests

const section = (title, body, id) => el("section", { id }, el("h2", {}, title), body);
const head = (...names) => el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name))));
const cell = (label, ...inside) => el("td", { "data-label": label }, inside);

function table(names) {
  const rows = el("tbody");
  return { rows, node: el("table", {}, head(...names), rows) };
}

export class StatusView {
  #orders;
  #refusal = el("p", { class: "refusal", role: "alert", hidden: true });
  #figures = el("dl", { id: "figures" });
  #workers = table(["worker", "state", "memory of its process", "keys and values", "sequences", "tokens/s", ""]);
  #models = table(["model", "state", "size", "context", "waiting", "stays", ""]);
  #requests = table(["request", "model", "asked for", "waited", "took", "tokens", "ended"]);
  #keys = table(["key", "now", "requests", "refused", "tokens in", "of them cached", "tokens out"]);
  #crashes = el("ol", { class: "plain" });
  #decisions = el("ol", { class: "plain" });
  #changes = el("ol", { class: "plain" });

  constructor(root, wantKey) {
    this.#orders = new ModelRow(wantKey);
    root.append(
      this.#refusal,
      this.#figures,
      section("Workers", this.#workers.node, "workers"),
      section("Models", this.#models.node, "models"),
      section("Recent requests", this.#requests.node, "requests"),
      section("Keys", this.#keys.node, "keys"),
      section("Crashes", this.#crashes, "crashes"),
      section("Memory decisions", this.#decisions, "decisions"),
      section("Changes", this.#changes, "changes"),
    );
  }

  refusedBecause(sentence) {
    this.#refusal.textContent = sentence;
    this.#refusal.hidden = !sentence;
  }

  show({ report, rates, changes }) {
    if (!report) return;
    const { memory } = report;
    this.#showFigures(report);
    keyed(
      this.#workers.rows,
      report.workers.map((worker) => ({ ...worker, lease: memory.leases[worker.id] ?? 0, budget: memory.budget, rates: rates.get(worker.id) ?? [] })),
      (worker) => worker.id,
      workerRow,
    );
    keyed(this.#models.rows, report.models, (model) => model.id, (model) => this.#orders.row(model));
    keyed(this.#requests.rows, report.recent.slice(0, SHOWN), (one) => one.request_id, requestRow);
    keyed(this.#keys.rows, report.keys, (one) => one.name, keyRow);
    document.getElementById("keys").hidden = !report.keys.length;
    keyed(this.#crashes, report.deaths.map(stable), (one) => `${one.worker} ${one.pid}`, crash);
    keyed(this.#decisions, memory.decisions.map((one) => ({ line: one.line, age: coarse(one.age) })), (one) => one.line, decision);
    keyed(this.#changes, changes, (one) => `${one.at} ${one.kind} ${one.name} ${one.state} ${one.detail}`, change);
  }

  #showFigures(report) {
    const { memory } = report;
    const rate = report.workers.reduce((sum, worker) => sum + Number(worker.engine.tokens_per_second ?? 0), 0);
    const figures = [
      ["memory", `${bytes(memory.used)} of ${bytes(memory.budget)}`, bar(memory.used, memory.budget, "memory in use")],
      ["running", count(report.in_flight)],
      ["waiting", count(report.queued)],
      ["tokens/s", rate.toFixed(rate < 100 ? 1 : 0)],
      ["up for", seconds(report.uptime)],
    ];
    this.#figures.replaceChildren(...figures.map(([name, value, more]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, more))));
  }
}

function workerRow(worker) {
  const engine = worker.engine;
  const rate = Number(engine.tokens_per_second ?? 0);
  const kv = Number(engine.kv_bytes ?? 0) + Number(engine.cache_bytes ?? 0);
  const loading = worker.state === "loading" || worker.state === "spawned";
  return el(
    "tr",
    {},
    cell("worker", el("b", {}, worker.model), el("small", {}, `${worker.id}, pid ${worker.pid}`)),
    cell("state", badge(worker.state), el("small", {}, loading ? `${worker.phase} ${percent(worker.done, worker.total)} %` : `for ${seconds(coarse(worker.since))}`), loading ? bar(worker.done, worker.total, "loaded") : null),
    cell("memory of its process", bytes(worker.memory), bar(worker.memory, worker.budget, "of the budget")),
    cell("keys and values", worker.lease ? `${bytes(kv)} of ${bytes(worker.lease)}` : bytes(kv), worker.lease ? bar(kv, worker.lease, "of the lease") : null),
    cell("sequences", count(engine.rows), el("small", {}, engine.waiting ? `${count(engine.waiting)} waiting` : (engine.phase ?? ""))),
    cell("tokens/s", rate.toFixed(1), sparkline(worker.rates)),
    cell("", el("small", {}, worker.in_flight ? `${count(worker.in_flight)} requests` : loading ? "" : `idle for ${seconds(coarse(worker.idle))}`)),
  );
}

function requestRow(one) {
  const asked = [`${count(one.size)} in`, one.max_tokens ? `up to ${count(one.max_tokens)} out` : null, one.n > 1 ? `${one.n} choices` : null];
  return el(
    "tr",
    {},
    cell("request", el("code", { title: one.request_id }, one.request_id.slice(0, 12))),
    cell("model", one.model, el("small", {}, one.worker)),
    cell("asked for", asked.filter(Boolean).join(", ")),
    cell("waited", seconds(one.waited)),
    cell("took", one.took === null ? "…" : seconds(one.took)),
    cell("tokens", one.tokens === null ? "–" : count(one.tokens)),
    cell("ended", badge(one.ended || (one.worker ? "running" : "waiting")), ...one.resumes.map((why) => el("small", {}, `resumed: ${why}`))),
  );
}

function keyRow(one) {
  return el(
    "tr",
    {},
    cell("key", el("b", {}, one.name), one.owed ? el("small", {}, `its budget is overdrawn by ${count(one.owed)} tokens`) : null),
    cell("now", count(one.open)),
    cell("requests", count(one.requests)),
    cell("refused", count(one.refused)),
    cell("tokens in", count(one.prompt)),
    cell("of them cached", count(one.cached)),
    cell("tokens out", count(one.out)),
  );
}

function crash(one) {
  const ended = [one.how, one.exit_code === null ? null : `exit code ${one.exit_code}`, one.signal].filter(Boolean).join(", ");
  const running = one.in_flight.map((shape) => `${shape.request_id}: ${count(shape.size)} in, ${count(shape.held.reduce((sum, held) => sum + held, 0))} out so far`);
  return el(
    "li",
    {},
    badge("crashed"),
    ` ${one.model}: ${ended}${one.phase ? ` while ${one.phase}` : ""}, ${ago(one.ago)}`,
    el("small", {}, `${one.worker}, pid ${one.pid}, ${bytes(one.memory)}; ${running.length} requests of it go on elsewhere or are answered`),
    running.length || one.last_lines.length
      ? el("details", {}, el("summary", {}, "What it ran and said last"), el("pre", {}, [...running, ...one.last_lines].join("\n")))
      : null,
  );
}

const decision = ({ line, age }) => el("li", {}, line, el("small", {}, ago(age)));

const change = (one) =>
  el(
    "li",
    {},
    el("time", {}, new Date(one.at).toLocaleTimeString("en-GB")),
    ` ${one.kind} ${one.name ?? ""} `,
    one.state ? badge(one.state) : null,
    ` ${one.detail ?? ""}`,
  );

// An age that does not change with each look, so that what is shown may stay.
const coarse = (age) => (age < 60 ? Math.floor(age / 5) * 5 : Math.floor(age / 60) * 60);
const stable = (one) => ({ ...one, ago: coarse(one.ago) });
