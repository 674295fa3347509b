// Makes the report's drawings tell their values, zoom and hide series; the page is whole without it. Everything is placed
// in the drawing's own units. Charts with the same axis move together.

const MIN_SHARE = 0.005; // of an axis, the least that a zoom shows
const DRAG = 5; // units that make a press a drag

const said = document.createElement("p");
said.className = "said";
said.setAttribute("role", "status");

class Chart {
  constructor(figure, number) {
    this.figure = figure;
    this.svg = figure.querySelector("svg");
    this.x = new Axis(this.svg.dataset.x);
    this.y = new Axis(this.svg.dataset.y);
    this.top = Math.min(this.y.start, this.y.end);
    this.bottom = Math.max(this.y.start, this.y.end);
    this.isFixed = figure.hasAttribute("data-fixed");
    this.view = [this.x.start, this.x.end];
    this.peers = [this];
    this.at = null;
    this.names = [...figure.querySelectorAll(".legend span")].map((item) => item.textContent);
    this.holder = this.svg.querySelector(".marks");
    this.marks = [...this.holder.children].map((node) => new Mark(node));
    this.points = this.marks.flatMap((mark) => this.pointsOf(mark)).sort((a, b) => a.x - b.x || a.group - b.group);
    this.clip(number);
    this.overlay();
    this.legend();
    if (!this.isFixed) this.tools();
    this.listen();
  }

  // What can be told: the corners of lines that have values, and every other shape that has a text.
  pointsOf(mark) {
    const { group, tip } = mark;
    if (mark.path && mark.node.hasAttribute("data-values")) {
      const name = this.names[group] ? `${this.names[group]}: ` : "";
      const { xTitle, yTitle } = this.svg.dataset;
      return mark.path.map(([x, y]) => {
        const value = number(this.y.value(y)).replace(/\.0+$/, "");
        return { mark, group, x, y, value, tip: `${name}${value} ${yTitle} (${number(this.x.value(x))} ${xTitle})` };
      });
    }
    if (mark.path || !tip) return [];
    return [{ mark, group, x: mark.x + mark.width / 2, y: mark.y + mark.height / 2, tip }];
  }

  clip(number) {
    const id = `plot-${number}`;
    const box = { x: this.x.start, y: this.top - 8, width: this.x.end - this.x.start, height: this.bottom - this.top + 9 };
    element("rect", box, element("clipPath", { id }, element("defs", {}, this.svg)));
    this.clipped = `url(#${id})`;
  }

  overlay() {
    const above = element("g", { class: "above" }, this.svg);
    const line = { class: "cross off", y1: this.top, y2: this.bottom };
    this.chosen = element("rect", { class: "chosen off", y: this.top, height: this.bottom - this.top }, above);
    this.cross = element("line", line, above);
    this.ring = element("circle", { class: "ring off", r: 6 }, above);
    this.tip = document.createElement("div");
    this.tip.className = "tip off";
    this.tip.setAttribute("aria-hidden", "true"); // what it says is said by the status line
    this.figure.append(this.tip);
    this.svg.setAttribute("tabindex", "0");
    this.svg.setAttribute("role", "application");
    this.svg.setAttribute("aria-roledescription", "chart");
    const zoom = this.isFixed ? "" : ", plus and minus zoom, 0 shows all";
    const label = this.svg.getAttribute("aria-label");
    this.svg.setAttribute("aria-label", `${label}. Left and right go from value to value, up and down between series${zoom}`);
  }

  legend() {
    this.figure.querySelectorAll(".legend span").forEach((item, group) => {
      const made = button("", "", () => this.toggle(group, made));
      made.removeAttribute("aria-label");
      made.title = "Hide or show";
      made.setAttribute("aria-pressed", "true");
      made.append(...item.childNodes, document.createElement("b"));
      item.replaceWith(made);
    });
    this.entries = [...this.figure.querySelectorAll(".legend button")];
  }

  toggle(group, pressed) {
    const shown = pressed.getAttribute("aria-pressed") !== "true";
    pressed.setAttribute("aria-pressed", String(shown));
    for (const mark of this.marks.filter((one) => one.group === group)) {
      mark.hidden = !shown;
      mark.node.classList.toggle("off", !shown);
    }
    this.show(null);
  }

  tools() {
    const bar = document.createElement("div");
    bar.className = "tools";
    this.out = button("−", "Zoom out", () => this.zoom(2));
    this.all = button("Reset", "Reset: show all of the axis", () => this.look([this.x.start, this.x.end]));
    bar.append(button("+", "Zoom in", () => this.zoom(0.5)), this.out, this.all);
    this.figure.prepend(bar);
    this.out.disabled = this.all.disabled = true;
  }

  map(pixel) {
    const [from, to] = this.view;
    return this.x.start + ((pixel - from) * (this.x.end - this.x.start)) / (to - from);
  }

  unmap(pixel) {
    const [from, to] = this.view;
    return from + ((pixel - this.x.start) * (to - from)) / (this.x.end - this.x.start);
  }

  zoom(factor, around = (this.x.start + this.x.end) / 2) {
    const [from, to] = this.view;
    const middle = this.unmap(around);
    this.look([middle - (middle - from) * factor, middle + (to - middle) * factor]);
  }

  // Show a part of the x axis, here and in every chart that shares it.
  look([from, to]) {
    const { start, end } = this.x;
    const size = clamp(to - from, (end - start) * MIN_SHARE, end - start);
    const first = clamp((from + to - size) / 2, start, end - size);
    for (const chart of this.peers) chart.draw([first, first + size]);
  }

  draw(view) {
    this.view = view;
    const isWhole = view[1] - view[0] >= (this.x.end - this.x.start) * 0.9999;
    if (isWhole) this.holder.removeAttribute("clip-path");
    else this.holder.setAttribute("clip-path", this.clipped);
    for (const mark of this.marks) mark.place((pixel) => this.map(pixel));
    const old = this.svg.querySelector(".x-ticks");
    const made = element("g", { class: "x-ticks" });
    for (const value of ticks(...view.map((pixel) => this.x.value(pixel)), this.x.isLog)) {
      const x = this.map(this.x.pixel(value)).toFixed(2);
      element("line", { class: "grid", x1: x, x2: x, y1: this.bottom, y2: this.top }, made);
      element("text", { class: "tick", x, y: this.bottom + 14, "text-anchor": "middle" }, made, tickText(value));
    }
    old.replaceWith(made);
    this.out.disabled = this.all.disabled = isWhole;
    this.show(null);
  }

  visible() {
    const [from, to] = this.view;
    return this.points.filter(({ mark, x }) => !mark.hidden && x >= from - 1e-6 && x <= to + 1e-6);
  }

  nearest(x, y) {
    let best = null;
    let least = Infinity;
    for (const point of this.visible()) {
      const { mark } = point;
      // Within a bar is at it; a line is asked for by its x more than by its y.
      const [left, right] = mark.path ? [point.x, point.x] : [mark.x, mark.x + mark.width];
      const [high, low] = mark.path ? [point.y, point.y] : [mark.y, mark.y + mark.height];
      const aside = x - clamp(x, this.map(left), this.map(right));
      const distance = Math.hypot(aside, (y - clamp(y, high, low)) / 2);
      if (distance < least) [best, least] = [point, distance];
    }
    return best;
  }

  // Tell a point: a ring around it, a line through it in every chart of the axis, its text beside it.
  show(point, isSaid = false) {
    this.at = point;
    for (const chart of this.peers) chart.through(point ? this.map(point.x) : null, point?.x);
    for (const part of [this.ring, this.tip]) part.classList.toggle("off", !point);
    if (!point) return;
    const [x, y] = [this.map(point.x), point.y];
    this.ring.setAttribute("cx", x);
    this.ring.setAttribute("cy", y);
    this.tip.textContent = point.tip;
    if (isSaid) said.textContent = point.tip;
    const box = this.svg.getBoundingClientRect();
    const scale = box.width / this.svg.viewBox.baseVal.width;
    const outer = this.figure.getBoundingClientRect();
    const left = clamp(x * scale - this.tip.offsetWidth / 2, 0, Math.max(0, outer.width - this.tip.offsetWidth));
    const above = y * scale - this.tip.offsetHeight - 12;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${box.top - outer.top + (above > 0 ? above : y * scale + 14)}px`;
  }

  // A line at a moment, and what each series of a shared axis was then, in the legend.
  through(x, base) {
    this.cross.classList.toggle("off", x === null);
    if (x !== null) for (const end of ["x1", "x2"]) this.cross.setAttribute(end, x);
    if (!this.figure.dataset.axis) return;
    this.entries.forEach((entry, group) => {
      const own = x === null ? [] : this.points.filter((point) => point.group === group && point.value && !point.mark.hidden);
      const [near] = own.sort((a, b) => Math.abs(a.x - base) - Math.abs(b.x - base));
      entry.lastChild.textContent = near ? near.value : "";
    });
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    const scale = this.svg.viewBox.baseVal.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  listen() {
    let from = null;
    const drag = (to) => {
      const [left, right] = [from, clamp(to, this.x.start, this.x.end)].sort((a, b) => a - b);
      const isDrag = !this.isFixed && right - left > DRAG;
      this.chosen.classList.toggle("off", !isDrag);
      this.chosen.setAttribute("x", left);
      this.chosen.setAttribute("width", right - left);
      return isDrag ? [left, right] : null;
    };
    const drop = () => {
      from = null;
      this.chosen.classList.add("off");
    };
    this.svg.addEventListener("pointerdown", (event) => {
      const [x, y] = this.place(event);
      if (event.button !== 0 || y < this.top || y > this.bottom) return;
      from = clamp(x, this.x.start, this.x.end);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointermove", (event) => {
      const [x, y] = this.place(event);
      if (from !== null && drag(x)) this.show(null);
      else this.show(this.nearest(x, y));
    });
    this.svg.addEventListener("pointerup", (event) => {
      const chosen = from === null ? null : drag(this.place(event)[0]);
      drop();
      if (chosen) this.look(chosen.map((pixel) => this.unmap(pixel)));
    });
    this.svg.addEventListener("pointercancel", drop);
    this.svg.addEventListener("pointerleave", () => this.show(null));
    this.svg.addEventListener("blur", () => this.show(null));
    this.svg.addEventListener("keydown", (event) => this.key(event, drop));
    if (this.isFixed) return;
    this.svg.addEventListener("dblclick", () => this.look([this.x.start, this.x.end]));
    // A wheel over a chart that nobody chose goes on scrolling the page.
    const wheel = (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.svg) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, clamp(this.place(event)[0], this.x.start, this.x.end));
    };
    this.svg.addEventListener("wheel", wheel, { passive: false });
  }

  key(event, drop) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const around = this.at ? this.map(this.at.x) : undefined;
    const kept = this.at;
    const act = {
      ArrowRight: () => this.step(1),
      ArrowLeft: () => this.step(-1),
      ArrowUp: () => this.crossOver(-1),
      ArrowDown: () => this.crossOver(1),
      Home: () => this.show(this.visible()[0] ?? null, true),
      End: () => this.show(this.visible().at(-1) ?? null, true),
      Escape: () => (drop(), this.show(null)),
      ...(this.isFixed ? {} : { "+": () => this.zoom(0.5, around), "-": () => this.zoom(2, around), 0: () => this.all.click() }),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
    if ("+-0".includes(event.key) && kept && this.visible().includes(kept)) this.show(kept, true);
  }

  // The next or previous value of the same series.
  step(by) {
    const known = this.visible().filter((point) => !this.at || point.group === this.at.group);
    const next = this.at ? known.indexOf(this.at) + by : 0;
    if (known.length) this.show(known[clamp(next, 0, known.length - 1)], true);
  }

  // The value of another series that lies nearest.
  crossOver(by) {
    const known = this.visible();
    const groups = [...new Set(known.map((point) => point.group))].sort((a, b) => a - b);
    if (!this.at) return this.step(1);
    const group = groups[(groups.indexOf(this.at.group) + by + groups.length) % groups.length];
    const own = known.filter((point) => point.group === group);
    return this.show(own.sort((a, b) => Math.abs(a.x - this.at.x) - Math.abs(b.x - this.at.x))[0] ?? null, true);
  }
}

const charts = [...document.querySelectorAll("figure.chart")].map((figure, index) => new Chart(figure, index));
for (const chart of charts) {
  const { axis } = chart.figure.dataset;
  if (axis) chart.peers = charts.filter((other) => other.figure.dataset.axis === axis);
}
document.body.append(said);
document.documentElement.classList.add("scripted");
