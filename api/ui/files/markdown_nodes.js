// The tree of markdown.js as nodes of the page.

import { el } from "/ui/dom.js";
import { blocks } from "/ui/markdown.js";

export const markdown = (text) => blocks(text).map(blockNode);

function blockNode(block) {
  switch (block.kind) {
    case "code":
      return el("div", { class: "code" }, copyButton(block.text), el("pre", {}, el("code", {}, block.text)));
    case "heading":
      return el(`h${Math.min(6, block.level + 2)}`, {}, pieces(block.inside));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, block.inside.map(blockNode));
    case "list":
      return listNode(block);
    case "table":
      return el(
        "table",
        {},
        el("thead", {}, el("tr", {}, block.head.map((cell) => el("th", {}, pieces(cell))))),
        el("tbody", {}, block.rows.map((row) => el("tr", {}, row.map((cell) => el("td", {}, pieces(cell)))))),
      );
    default:
      return el("p", {}, pieces(block.inside));
  }
}

function listNode({ ordered, start, items }) {
  const top = el(ordered ? "ol" : "ul", ordered ? { start } : {});
  const open = [top];
  for (const { depth, inside } of items) {
    while (open.length > depth + 1) open.pop();
    while (open.length < depth + 1 && open.at(-1).lastElementChild) {
      const inner = el("ul");
      open.at(-1).lastElementChild.append(inner);
      open.push(inner);
    }
    open.at(-1).append(el("li", {}, pieces(inside)));
  }
  return top;
}

function pieces(inside) {
  return inside.map((piece) => {
    if (typeof piece === "string") return piece;
    if (piece.kind === "link") return el("a", { href: piece.target, target: "_blank", rel: "noopener noreferrer nofollow" }, pieces(piece.inside));
    return el(piece.kind, {}, pieces(piece.inside));
  });
}

function copyButton(text) {
  return el("button", { type: "button", class: "copy", click: () => navigator.clipboard?.writeText(text) }, "copy");
}
