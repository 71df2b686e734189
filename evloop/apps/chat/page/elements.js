// How the page makes elements, and gives people faces.
// Rule: strings become text nodes and properties, never HTML.

/** Return a new element with *properties* and *children*, which are nodes or strings. */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const HUES = 24; // more are not told apart

/** Return the hue of a name, degrees: the same in every tab and on every machine.  FNV-1a over its UTF-16 units. */
export function hueOf(name) {
  let hash = 0x811c9dc5;
  for (const unit of name.normalize("NFKC").toLowerCase()) {
    hash = Math.imul(hash ^ unit.codePointAt(0), 0x01000193);
  }
  return ((hash >>> 0) % HUES) * (360 / HUES);
}

/** Return the letter that stands for *name*: the last one of a Chinese name, which is the given one; else the first. */
function initial(name) {
  const letters = Array.from(name);
  return /\p{Script=Han}/u.test(name) ? letters.at(-1) : (letters[0] ?? "?").toUpperCase();
}

/** Draw the face of *name* in *node*. */
export function drawFace(node, name) {
  node.textContent = initial(name);
  node.style.setProperty("--hue", hueOf(name));
}

/** Return a face for *name*: its letter in its colour; silent to a screen reader, for the name stands beside it. */
export function face(name) {
  const node = element("span", { className: "avatar" });
  node.setAttribute("aria-hidden", "true");
  drawFace(node, name);
  return node;
}
