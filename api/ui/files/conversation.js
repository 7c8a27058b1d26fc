// A conversation and what is sent of it. Pure.

export const SETTINGS = {
  system: "",
  temperature: "",
  top_p: "",
  max_tokens: "",
  seed: "",
  thinking: "",
  tools: "",
};
const NUMBERS = { temperature: Number, top_p: Number, max_tokens: Number, seed: Number };

export const newConversation = (id, model, settings = SETTINGS) => ({ id, model, settings: { ...settings }, messages: [], title: "" });

export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  return first ? first.content.replace(/\s+/g, " ").slice(0, 60) : "New conversation";
}

// The body of the request that asks for the next message. Throws SyntaxError where the tools are no JSON.
export function request({ model, settings, messages }) {
  const body = { model, messages: messages.filter((message) => !message.error).map(sent), stream: true, stream_options: { include_usage: true } };
  if (settings.system.trim()) body.messages.unshift({ role: "system", content: settings.system });
  for (const [name, read] of Object.entries(NUMBERS)) {
    if (settings[name] !== "") body[name] = read(settings[name]);
  }
  if (settings.thinking) body.enable_thinking = settings.thinking === "on";
  if (settings.tools.trim()) body.tools = tools(JSON.parse(settings.tools));
  return body;
}

function sent(message) {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.id, content: message.content };
  if (!message.calls?.length) return { role: message.role, content: message.content };
  const calls = message.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
  return { role: "assistant", content: message.content || null, tool_calls: calls };
}

// A list of tools, or of functions alone.
function tools(given) {
  if (!Array.isArray(given)) throw new SyntaxError("The tools must be a list.");
  return given.map((one) => (one?.type ? one : { type: "function", function: one }));
}
