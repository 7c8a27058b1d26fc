// Numbers as people read them.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(size) {
  let at = 0;
  let value = size;
  while (value >= 1000 && at < UNITS.length - 1) {
    value /= 1000;
    at += 1;
  }
  return `${value.toFixed(value >= 100 || at === 0 ? 0 : 1)} ${UNITS[at]}`;
}

export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

export const ago = (value) => (value < 1 ? "now" : `${seconds(value)} ago`);
export const percent = (part, whole) => (whole > 0 ? Math.min(100, Math.round((100 * part) / whole)) : 0);
export const count = (value) => Number(value ?? 0).toLocaleString("en").replaceAll(",", " ");
