// Markdown as models write it, as a tree. Pure: `markdown_nodes.js` makes nodes of it.
//
// A block is {kind, ...}, a piece of a line a text or {kind, inside}. What is no markdown that is known here stays text,
// and so does all HTML. Whatever the text, the work grows with its length only: a mark without its end is looked for once.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const SPACER = /^\s*\|?(?:\s*:?-+:?\s*\|)+\s*(?::?-+:?)?\s*$/;
const DEPTH = 5; // of quotes in quotes, and of marks in marks
const SAFE = /^(?:https?:\/\/|mailto:)/i;

export function blocks(text, depth = 0) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const found = [];
  let at = 0;
  while (at < lines.length) {
    const read = oneBlock(lines, at, depth);
    if (read.block) found.push(read.block);
    at = read.next;
  }
  return found;
}

function oneBlock(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return { next: at + 1 };
  const fence = FENCE.exec(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return { block: { kind: "heading", level: heading[1].length, inside: inline(heading[2]) }, next: at + 1 };
  if (RULE.test(line)) return { block: { kind: "rule" }, next: at + 1 };
  if (QUOTE.test(line) && depth < DEPTH) return quote(lines, at, depth);
  if (ITEM.test(line)) return list(lines, at);
  if (line.includes("|") && SPACER.test(lines[at + 1] ?? "")) return grid(lines, at);
  return paragraph(lines, at, depth);
}

// A fence that has no end yet reaches to the end of the text: the answer still grows.
function code(lines, at, [, mark, language]) {
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(mark) && !lines[end].trim().replaceAll(mark[0], ""))) end += 1;
  return { block: { kind: "code", language, text: lines.slice(at + 1, end).join("\n") }, next: end + 1 };
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, "")).join("\n");
  return { block: { kind: "quote", inside: blocks(inside, depth + 1) }, next: end };
}

// Items with their depth, as a flat list; lines that are indented go on with an item.
function list(lines, at) {
  const items = [];
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const start = ordered ? Number.parseInt(ITEM.exec(lines[at])[2], 10) : 1;
  let end = at;
  for (; end < lines.length; end += 1) {
    const item = ITEM.exec(lines[end]);
    if (item && !RULE.test(lines[end])) items.push({ depth: Math.min(DEPTH, item[1].length >> 1), text: [item[3]] });
    else if (/^\s+\S/.test(lines[end]) && !FENCE.test(lines[end].trim())) items.at(-1).text.push(lines[end].trim());
    else break;
  }
  return {
    block: { kind: "list", ordered, start, items: items.map(({ depth, text }) => ({ depth, inside: inline(text.join(" ")) })) },
    next: end,
  };
}

function grid(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = [lines[at], ...lines.slice(at + 2, end)].map(cells);
  return { block: { kind: "table", head: rows[0], rows: rows.slice(1) }, next: end };
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !FENCE.test(lines[end]) && !HEADING.test(lines[end]) && !ITEM.test(lines[end]) && !(QUOTE.test(lines[end]) && depth < DEPTH)) end += 1;
  return { block: { kind: "paragraph", inside: inline(lines.slice(at, end).join("\n")) }, next: end };
}

// ---- within a line

const MARKS = [
  ["**", "strong"],
  ["__", "strong"],
  ["~~", "del"],
  ["*", "em"],
  ["_", "em"],
];

export function inline(text, depth = 0) {
  const pieces = [];
  const endless = new Set(); // marks whose end is not in the rest of the text
  let plain = 0;
  let at = 0;
  while (at < text.length) {
    const found = piece(text, at, depth, endless);
    if (!found) {
      at += 1;
      continue;
    }
    if (at > plain) pieces.push(text.slice(plain, at));
    pieces.push(found.piece);
    at = plain = found.next;
  }
  if (text.length > plain) pieces.push(text.slice(plain));
  return pieces;
}

function piece(text, at, depth, endless) {
  const letter = text[at];
  if (letter === "\\" && /[\\`*_~[\]#|>-]/.test(text[at + 1] ?? "")) return { piece: text[at + 1], next: at + 2 };
  if (letter === "`") return span(text, at, endless);
  if (letter === "[") return link(text, at, endless);
  if (depth >= DEPTH) return null;
  for (const [mark, kind] of MARKS) {
    if (!text.startsWith(mark, at)) continue;
    const found = marked(text, at, mark, kind, depth, endless);
    if (found) return found;
  }
  return null;
}

function endOf(text, mark, from, endless) {
  if (endless.has(mark)) return -1;
  const end = text.indexOf(mark, from);
  if (end < 0) endless.add(mark);
  return end;
}

function span(text, at, endless) {
  let ticks = 1;
  while (text[at + ticks] === "`") ticks += 1;
  const mark = "`".repeat(ticks);
  const end = endOf(text, mark, at + ticks, endless);
  return end < 0 ? { piece: mark, next: at + ticks } : { piece: { kind: "code", inside: [text.slice(at + ticks, end)] }, next: end + ticks };
}

// A picture would be asked for elsewhere: its mark and its words stay, as a link.
function link(text, at, endless) {
  const middle = endOf(text, "](", at + 1, endless);
  if (middle < 0) return null;
  const end = endOf(text, ")", middle + 2, endless);
  if (end < 0) return null;
  const words = text.slice(at + 1, middle);
  const target = text.slice(middle + 2, end).trim();
  if (words.includes("[") || words.length > 1000 || !SAFE.test(target) || /\s/.test(target)) return null;
  return { piece: { kind: "link", target, inside: [words] }, next: end + 1 };
}

function marked(text, at, mark, kind, depth, endless) {
  const start = at + mark.length;
  if (!/\S/.test(text[start] ?? "") || (mark.startsWith("_") && /\w/.test(text[at - 1] ?? ""))) return null;
  const end = endOf(text, mark, start + 1, endless);
  if (end < 0 || !/\S/.test(text[end - 1]) || (mark.startsWith("_") && /\w/.test(text[end + mark.length] ?? ""))) return null;
  return { piece: { kind, inside: inline(text.slice(start, end), depth + 1) }, next: end + mark.length };
}
