// A row of the table of models, with what may be ordered of it.

import { el } from "/ui/dom.js";
import { bytes, count, percent, seconds } from "/ui/format.js";
import { ask, modelPath } from "/ui/server.js";

const GOOD = new Set(["hot", "ready", "finished"]);
const BAD = new Set(["failed", "crashed", "gone", "refused"]);

export const badge = (state) => el("span", { class: `badge ${GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : ""}` }, state);

export const bar = (part, whole, label) =>
  el("progress", { max: Math.max(1, whole), value: Math.min(part, Math.max(1, whole)), "aria-label": `${label}: ${percent(part, whole)} %` });

const cell = (label, ...inside) => el("td", { "data-label": label }, inside);

export class ModelRow {
  #wantKey;

  constructor(wantKey) {
    this.#wantKey = wantKey;
  }

  row(model) {
    const can = model.capabilities;
    const size = can?.bytes || model.weights;
    const stays = model.pinned ? "pinned" : model.ttl ? `${seconds(model.ttl)} without a request` : "until room is needed";
    return el(
      "tr",
      {},
      cell("model", el("b", {}, model.id), el("small", {}, model.aliases.length ? `also ${model.aliases.join(", ")}` : "")),
      cell("state", badge(model.state), ...progress(model), model.replicas !== "1" ? el("small", {}, `${model.workers} of ${model.replicas} workers`) : null, model.reason ? el("small", { class: "reason" }, model.reason) : null),
      cell("size", size ? bytes(size) : "–", el("small", {}, can ? can.kind : "")),
      cell("context", model.context_length ? count(model.context_length) : "–"),
      cell("waiting", count(model.queued)),
      cell("stays", stays),
      cell("", this.#buttons(model)),
    );
  }

  #buttons(model) {
    const said = el("small", { role: "status" });
    const buttons = this.#actions(model).map(([action, method, force]) => {
      const word = method === "DELETE" ? "stop the download" : action;
      return el("button", { type: "button", "aria-label": `${word} ${model.id}`, click: (event) => this.#order(event, model, method, action, force, said) }, word);
    });
    return [el("div", { class: "row" }, buttons), said];
  }

  // Which orders make sense in its state: [action, method, force].
  #actions(model) {
    switch (model.state) {
      case "downloading":
        return [["pull", "DELETE", false]];
      case "hot":
        return [["unload", "POST", model.pinned], ["reload", "POST", model.pinned]];
      case "loading":
      case "queued":
        return [["unload", "POST", model.pinned]];
      default:
        return [["load", "POST", false], ...(model.absent ? [["pull", "POST", false]] : [])];
    }
  }

  async #order(event, model, method, action, force, said) {
    if (force && !confirm(`${model.id} is pinned: ${action} it nevertheless?`)) return;
    const button = event.currentTarget;
    button.disabled = true;
    said.textContent = "";
    try {
      await ask(method, modelPath(model.id, action), { body: action === "pull" ? {} : { force } });
    } catch (error) {
      said.textContent = error.message;
      if (error.status === 401) this.#wantKey(error.message);
    } finally {
      button.disabled = false;
    }
  }
}

function progress(model) {
  if (!model.phase) return [];
  const pace = model.rate ? `, ${bytes(model.rate)}/s` : "";
  const left = model.eta ? `, ${seconds(model.eta)} left` : "";
  const done = model.total ? ` ${bytes(model.done)} of ${bytes(model.total)}${pace}${left}` : "";
  return [el("small", {}, model.phase + done), model.total ? bar(model.done, model.total, model.phase) : null];
}
