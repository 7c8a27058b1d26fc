// One message of a conversation as a node.

import { el } from "/ui/dom.js";
import { count, seconds } from "/ui/format.js";
import { markdown } from "/ui/markdown_nodes.js";

const NAMES = { user: "You", assistant: "Model", tool: "Result of a tool" };

// `on`: what the buttons do: edit(text), regenerate(), answerCalls(results). None while an answer grows.
export function messageNode(message, on = {}, growing = false) {
  const node = el("article", { class: `message ${message.role}` }, el("h3", {}, NAMES[message.role]));
  if (message.reasoning) {
    node.append(el("details", { class: "reasoning", open: growing && !message.content }, el("summary", {}, "Thinking"), el("div", {}, markdown(message.reasoning))));
  }
  node.append(el("div", { class: "text" }, message.role === "assistant" ? markdown(message.content) : el("p", { class: "typed" }, message.content)));
  for (const call of message.calls ?? []) node.append(callNode(call));
  if (message.error) node.append(el("p", { class: "refusal", role: "alert" }, message.error));
  if (message.figures) node.append(el("p", { class: "figures small" }, figures(message)));
  if (!growing) node.append(buttons(message, on, node));
  return node;
}

function callNode({ name, arguments: text }) {
  return el("div", { class: "call" }, el("b", {}, `Calls ${name}`), el("pre", {}, pretty(text)));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it still grows, or is no JSON
  }
}

function figures({ figures: { first, rate, tokens, prompt, cached }, finish }) {
  return [
    first === null ? null : `first token after ${seconds(first)}`,
    rate === null ? null : `${rate.toFixed(1)} tokens/s`,
    tokens === null ? null : `${count(tokens)} tokens`,
    prompt === null ? null : `prompt ${count(prompt)}${cached ? `, ${count(cached)} of them cached` : ""}`,
    finish && finish !== "stop" ? `ended by ${finish}` : null,
  ]
    .filter(Boolean)
    .join(" · ");
}

function buttons(message, on, node) {
  const row = el("div", { class: "row actions" });
  const add = (word, click) => row.append(el("button", { type: "button", click }, word));
  if (on.edit) add("Edit", () => edit(message, on.edit, node));
  if (on.regenerate) add("Regenerate", on.regenerate);
  if (on.answerCalls && message.calls?.length) add("Give results", () => giveResults(message.calls, on.answerCalls, node));
  if (message.content) add("Copy", () => navigator.clipboard?.writeText(message.content));
  return row;
}

function edit(message, save, node) {
  const text = el("textarea", { rows: 4, "aria-label": "the message" });
  text.value = message.content;
  const again = el("button", { type: "button", class: "first", click: () => save(text.value) }, "Send again");
  const back = el("button", { type: "button", click: () => node.replaceWith(messageNode(message, { edit: save })) }, "Cancel");
  node.replaceChildren(text, el("div", { class: "row" }, again, back));
  text.focus();
}

function giveResults(calls, send, node) {
  const texts = calls.map(({ name }) => el("textarea", { rows: 2, "aria-label": `result of ${name}`, placeholder: `result of ${name}` }));
  const go = el("button", { type: "button", class: "first", click: () => send(calls.map(({ id }, at) => ({ role: "tool", id, content: texts[at].value }))) }, "Send results");
  node.querySelector(".actions").replaceWith(...texts, el("div", { class: "row" }, go));
  texts[0].focus();
}
