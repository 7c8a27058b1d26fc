// Server-sent events out of a fetched stream: an EventSource cannot send a key.

export class EventReader {
  #rest = "";

  // Text, however it was cut, to whole events.
  feed(text) {
    const blocks = (this.#rest + text).split(/\r?\n\r?\n/);
    this.#rest = blocks.pop();
    return blocks.map(parsed).filter((event) => event.data !== null);
  }
}

function parsed(block) {
  const event = { id: "", event: "message", data: null };
  for (const line of block.split(/\r?\n/)) {
    const at = line.indexOf(":");
    if (at < 1) continue; // a comment
    const name = line.slice(0, at);
    const value = line.slice(at + 1).replace(/^ /, "");
    if (name === "data") event.data = event.data === null ? value : `${event.data}\n${value}`;
    else if (name === "event" || name === "id") event[name] = value;
  }
  return event;
}

export async function* events(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const ours = new EventReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      yield* ours.feed(done ? decoder.decode() : decoder.decode(value, { stream: true }));
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
