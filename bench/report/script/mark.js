// Elements of the page and the shapes of a drawing. Knows the drawings' attributes, not what they show.

const SVG = "http://www.w3.org/2000/svg";

const element = (name, attributes = {}, parent = null, text = "") => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent?.append(made);
  return made;
};
const button = (text, label, press) => {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.title = label;
  made.addEventListener("click", press);
  return made;
};

// A shape of the drawing, with where it lies when nothing is zoomed.
class Mark {
  constructor(node) {
    this.node = node;
    this.group = Number(node.dataset.group ?? -1);
    this.hidden = false;
    this.tip = node.querySelector("title")?.textContent ?? "";
    node.querySelector("title")?.remove(); // the browser would show it beside ours
    const at = (name) => Number(node.getAttribute(name));
    if (node.tagName === "polyline") {
      this.path = node.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number));
    } else if (node.tagName === "rect") {
      [this.x, this.y, this.width, this.height] = [at("x"), at("y"), at("width"), at("height")];
    } else {
      this.key = node.tagName === "circle" ? "cx" : "x";
      [this.x, this.y] = [at(this.key), at(node.tagName === "circle" ? "cy" : "y")];
      [this.width, this.height] = [0, 0];
    }
  }

  place(map) {
    if (this.path) {
      this.node.setAttribute("points", this.path.map(([x, y]) => `${map(x).toFixed(2)},${y}`).join(" "));
    } else if (this.node.tagName === "rect") {
      this.node.setAttribute("x", map(this.x).toFixed(2));
      this.node.setAttribute("width", Math.max(0.5, map(this.x + this.width) - map(this.x)).toFixed(2));
    } else {
      this.node.setAttribute(this.key, map(this.x).toFixed(2));
    }
  }
}
