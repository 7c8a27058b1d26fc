// Builds nodes of the page. Text stays text: nothing here, or anywhere else in this page, parses markup.

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Shows one node for each item, and makes a node anew only if its item has changed: so a button does not
// vanish under a finger, and what was opened stays open.
export function keyed(container, items, keyOf, render) {
  const before = container.shown ?? new Map();
  const shown = new Map();
  for (const item of items) {
    let key = keyOf(item);
    while (shown.has(key)) key += "'"; // the same again
    const text = JSON.stringify(item);
    const known = before.get(key);
    shown.set(key, known?.text === text ? known : { text, node: replaced(known?.node, render(item)) });
  }
  container.shown = shown;
  const nodes = [...shown.values()].map((one) => one.node);
  if (nodes.length !== container.childNodes.length || nodes.some((node, at) => container.childNodes[at] !== node)) {
    container.replaceChildren(...nodes);
  }
}

function replaced(old, node) {
  const open = old ? [...old.querySelectorAll("details")].map((one) => one.open) : [];
  [...node.querySelectorAll("details")].forEach((one, at) => (one.open = open[at] ?? one.open));
  return node;
}
