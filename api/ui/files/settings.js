// The parameters of a conversation. An empty field leaves the choice to the model and the server.

import { el } from "/ui/dom.js";

const FIELDS = [
  ["system", "System prompt", "textarea", { rows: 3 }],
  ["temperature", "Temperature", "input", { type: "number", min: 0, max: 2, step: 0.1 }],
  ["top_p", "Top p", "input", { type: "number", min: 0, max: 1, step: 0.05 }],
  ["max_tokens", "Tokens at most", "input", { type: "number", min: 1, step: 1 }],
  ["seed", "Seed", "input", { type: "number", step: 1 }],
  ["thinking", "Thinking", "select", {}],
  ["tools", "Tools (JSON)", "textarea", { rows: 3, spellcheck: "false", placeholder: '[{"name": "weather", "parameters": {…}}]' }],
];
const THINKING = [["", "as the model does"], ["on", "on"], ["off", "off"]];

export class SettingsForm {
  #fields = new Map();

  constructor(changed) {
    const rows = FIELDS.map(([name, label, tag, attributes]) => {
      const options = name === "thinking" ? THINKING.map(([value, words]) => el("option", { value }, words)) : [];
      const field = el(tag, { ...attributes, name, input: () => changed(this.#values()) }, options);
      this.#fields.set(name, field);
      return el("label", {}, label, field);
    });
    this.node = el("details", { id: "settings" }, el("summary", {}, "Parameters"), rows);
  }

  show(settings) {
    for (const [name, field] of this.#fields) field.value = settings[name] ?? "";
  }

  #values() {
    return Object.fromEntries([...this.#fields].map(([name, field]) => [name, field.value]));
  }
}
