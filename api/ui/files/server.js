// Requests to this server, with the key of this tab.

const KEY = "mlx-server-key";

export const getKey = () => sessionStorage.getItem(KEY) ?? "";
export const setKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

export class Refused extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// The response of a request that the server serves; else it throws Refused, with the server's own sentence.
export async function ask(method, path, { body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  const key = getKey();
  if (key) sent.authorization = `Bearer ${key}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  const response = await fetch(path, {
    method,
    headers: sent,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    credentials: "omit",
    cache: "no-store",
    redirect: "error",
  });
  if (response.ok) return response;
  const error = (await response.json().catch(() => ({}))).error ?? {};
  throw new Refused(response.status, error.message ?? `The server answered ${response.status}.`, error.code);
}

export const get = async (path) => (await ask("GET", path)).json();
export const modelPath = (model, action) => `/admin/models/${model.split("/").map(encodeURIComponent).join("/")}/${action}`;
