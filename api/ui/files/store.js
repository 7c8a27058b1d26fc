// Conversations, kept in this browser and nowhere else.

const KEY = "mlx-server-conversations";
const MOST = 100;

export function readAll() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => Array.isArray(one?.messages) && one.settings) : [];
  } catch {
    return [];
  }
}

// The latest come first; where the browser has no room for all, the earliest go. Returns whether all are kept: where not
// even the latest has room, what was kept before stays.
export function writeAll(conversations) {
  const all = conversations.filter((one) => one.messages.length).slice(0, MOST);
  for (let kept = all; kept.length || !all.length; kept = kept.slice(0, kept.length >> 1)) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return kept.length === all.length;
    } catch {
      if (!kept.length) return true;
    }
  }
  return false;
}
