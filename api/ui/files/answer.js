// An answer as it grows, out of the chunks of /v1/chat/completions. Pure.

// `at`: milliseconds of the same clock in all calls.
export class Answer {
  content = "";
  reasoning = "";
  calls = []; // {id, name, arguments}
  finish = null;
  usage = null;
  #asked;
  #first = null;
  #last = null;

  constructor(at) {
    this.#asked = at;
  }

  add(chunk, at) {
    if (chunk.usage) this.usage = chunk.usage;
    const [choice] = chunk.choices ?? [];
    if (!choice) return;
    const { content, reasoning_content: reasoning, tool_calls: calls } = choice.delta ?? {};
    if (content || reasoning || calls) {
      this.#first ??= at;
      this.#last = at;
    }
    this.content += content ?? "";
    this.reasoning += reasoning ?? "";
    for (const piece of calls ?? []) this.#addCall(piece);
    this.finish = choice.finish_reason ?? this.finish;
  }

  #addCall({ index, id, function: called }) {
    const call = (this.calls[index] ??= { id: "", name: "", arguments: "" });
    call.id ||= id ?? "";
    call.name ||= called?.name ?? "";
    call.arguments += called?.arguments ?? "";
  }

  // Seconds to the first token, and tokens per second behind it; null where it is not known.
  get figures() {
    const tokens = this.usage?.completion_tokens ?? null;
    const spent = (this.#last - this.#first) / 1000;
    return {
      first: this.#first === null ? null : (this.#first - this.#asked) / 1000,
      rate: tokens > 1 && spent > 0 ? (tokens - 1) / spent : null,
      tokens,
      prompt: this.usage?.prompt_tokens ?? null,
      cached: this.usage?.prompt_tokens_details?.cached_tokens ?? null,
    };
  }

  get message() {
    const { content, reasoning, calls, finish } = this;
    return { role: "assistant", content, reasoning, calls: calls.filter(Boolean), finish, figures: this.figures };
  }
}
