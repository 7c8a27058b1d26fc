// The playground: conversations with a model, streamed.

import { Answer } from "/ui/answer.js";
import { newConversation, request, SETTINGS, titleOf } from "/ui/conversation.js";
import { el } from "/ui/dom.js";
import { messageNode } from "/ui/message.js";
import { ask, get } from "/ui/server.js";
import { SettingsForm } from "/ui/settings.js";
import { events } from "/ui/sse.js";
import { readAll, writeAll } from "/ui/store.js";

const DRAW = 60; // milliseconds between two pictures of an answer that grows

export function startChat(root, wantKey) {
  const chat = new Chat(root, wantKey);
  chat.refresh();
  return chat;
}

class Chat {
  #wantKey;
  #all = readAll();
  #now = newConversation(newId(), "");
  #running = null; // AbortController of the answer that grows
  #list = el("ul", { class: "plain", id: "conversations" });
  #model = el("select", { id: "model", "aria-label": "model", change: () => this.#choose() });
  #settings = new SettingsForm((settings) => this.#keep({ ...this.#now, settings }));
  #unkept = el("p", { id: "unkept", role: "status", hidden: true }, "This browser has no room for all conversations: those that are missing after a reload are the earliest, or the one that is too long. Deleting some makes room.");
  #messages = el("div", { id: "messages", "aria-live": "off" });
  #text = el("textarea", { id: "say", rows: 3, placeholder: "Say something. Enter sends, Shift+Enter is a new line.", "aria-label": "message", keydown: (event) => this.#onKey(event) });
  #send = el("button", { id: "send", type: "button", class: "first", click: () => (this.#running ? this.stop() : this.#say()) }, "Send");

  constructor(root, wantKey) {
    this.#wantKey = wantKey;
    const fresh = el("button", { type: "button", id: "fresh", click: () => this.#open(newConversation(newId(), this.#now.model, this.#now.settings)) }, "New conversation");
    root.append(
      el("aside", {}, el("label", {}, "Model ", this.#model), fresh, this.#settings.node, el("details", { open: matchMedia("(min-width: 46rem)").matches }, el("summary", {}, "Conversations in this browser"), this.#list), this.#unkept),
      el("section", { id: "talk" }, this.#messages, el("div", { class: "row", id: "composer" }, this.#text, this.#send)),
    );
    this.#open(this.#now);
    window.addEventListener("storage", () => this.#reread());
  }

  // The models of this server, which may have changed.
  async refresh() {
    try {
      const { data } = await get("/v1/models");
      const chats = data.filter((one) => (one.capabilities?.kind ?? "chat") === "chat");
      const chosen = this.#now.model || this.#model.value;
      this.#model.replaceChildren(...chats.map((one) => el("option", { value: one.id }, `${one.id} (${one.status})`)));
      if (chats.some((one) => one.id === chosen)) this.#model.value = chosen;
      this.#choose();
    } catch (error) {
      if (error.status === 401) this.#wantKey(error.message);
    }
  }

  stop() {
    this.#running?.abort();
  }

  #choose() {
    if (this.#model.value && this.#model.value !== this.#now.model) this.#keep({ ...this.#now, model: this.#model.value });
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.#running) this.#say();
  }

  #say() {
    const content = this.#text.value;
    if (!content.trim()) return;
    this.#text.value = "";
    this.#goOn([...this.#now.messages, { role: "user", content }]);
  }

  // Asks for what comes after these messages.
  async #goOn(messages) {
    this.stop();
    const conversation = this.#keep({ ...this.#now, messages });
    this.#show();
    const running = (this.#running = new AbortController());
    this.#send.textContent = "Stop";
    let message;
    try {
      message = await this.#stream(conversation, running.signal);
    } catch (error) {
      message = { role: "assistant", content: "", error: error.message };
      if (error.status === 401) this.#wantKey(error.message);
    }
    this.#ended(conversation.id, running, message);
  }

  async #stream(conversation, signal) {
    const answer = new Answer(performance.now());
    const place = el("article", { class: "message assistant" }, el("p", { class: "small" }, "waiting for the first token"));
    this.#messages.append(place);
    this.#scroll();
    let shown = place;
    const draw = () => {
      const node = messageNode(answer.message, {}, true);
      shown.replaceWith(node);
      shown = node;
      this.#scroll();
    };
    let error = null;
    let drawn = 0;
    try {
      const response = await ask("POST", "/v1/chat/completions", { body: request(conversation), signal });
      for await (const { data } of events(response)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) error = chunk.error.message;
        answer.add(chunk, performance.now());
        if (performance.now() - drawn < DRAW) continue;
        draw();
        drawn = performance.now();
      }
    } catch (failure) {
      if (!signal.aborted) throw failure;
    }
    return { ...answer.message, ...(signal.aborted ? { finish: "you" } : {}), ...(error ? { error } : {}) };
  }

  #ended(id, running, message) {
    if (this.#running === running) {
      this.#running = null;
      this.#send.textContent = "Send";
    } else if (this.#now.id === id) return; // the next answer of this conversation takes its place
    const asked = this.#now.id === id ? this.#now : this.#all.find((one) => one.id === id);
    if (!asked) return; // it was deleted meanwhile
    this.#keep({ ...asked, messages: [...asked.messages, message] });
    if (this.#now.id === id) this.#show();
  }

  // ---- the conversations

  #keep(conversation) {
    const kept = { ...conversation, title: titleOf(conversation) };
    if (this.#now.id === kept.id) this.#now = kept;
    this.#all = [kept, ...this.#all.filter((one) => one.id !== kept.id)];
    this.#unkept.hidden = writeAll(this.#all);
    this.#showList();
    return kept;
  }

  // Another tab has written.
  #reread() {
    this.#all = readAll();
    this.#showList();
  }

  #open(conversation) {
    this.stop();
    this.#now = { ...conversation, settings: { ...SETTINGS, ...conversation.settings } };
    if (conversation.model) this.#model.value = conversation.model;
    this.#settings.show(this.#now.settings);
    this.#show();
    this.#showList();
  }

  #forget(id) {
    this.#all = this.#all.filter((one) => one.id !== id);
    this.#unkept.hidden = writeAll(this.#all);
    if (this.#now.id === id) this.#open(newConversation(newId(), this.#now.model, this.#now.settings));
    else this.#showList();
  }

  #showList() {
    const rows = this.#all.filter((one) => one.messages.length).map((one) =>
      el(
        "li",
        one.id === this.#now.id ? { "aria-current": "true" } : {},
        el("button", { type: "button", class: "link", click: () => this.#open(one) }, one.title),
        el("button", { type: "button", class: "link", "aria-label": `delete ${one.title}`, click: () => this.#forget(one.id) }, "×"),
      ),
    );
    this.#list.replaceChildren(...rows);
  }

  #show() {
    const { messages } = this.#now;
    this.#messages.replaceChildren(...messages.map((message, at) => messageNode(message, this.#on(message, at))));
    this.#scroll(true);
  }

  #on(message, at) {
    const before = this.#now.messages.slice(0, at);
    if (message.role === "user") return { edit: (content) => this.#goOn([...before, { role: "user", content }]) };
    if (message.role === "tool") return {};
    const last = at === this.#now.messages.length - 1;
    return {
      regenerate: () => this.#goOn(before),
      answerCalls: last ? (results) => this.#goOn([...this.#now.messages, ...results]) : null,
    };
  }

  // Stays at the end, unless the reader has gone up.
  #scroll(always = false) {
    const room = this.#messages;
    const below = room.scrollHeight - room.scrollTop - room.clientHeight;
    if (always || below < 200) room.scrollTop = room.scrollHeight;
  }
}

const newId = () => crypto.getRandomValues(new Uint32Array(2)).join("-");
