// Numbers to text and places, as svg.py and tables.py write them: what a chart says when it is zoomed reads as before.
// The page joins these files, inside a function of its own, into its one script.
"use strict";

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// As number() of tables.py and tick_text() of svg.py write them.
const grouped = (value, least, most) =>
  value.toLocaleString("en-US", { minimumFractionDigits: least, maximumFractionDigits: most });
const number = (value) => {
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3;
  return grouped(value, digits, digits);
};
const tickText = (value) => {
  if (Math.abs(value) >= 10000) return `${Number((value / 1000).toPrecision(4)).toLocaleString("en-US")}k`;
  return Math.abs(value) >= 1000 ? grouped(value, 0, 0) : `${Number(value.toPrecision(4))}`;
};

class Axis {
  constructor(text) {
    const [low, high, start, end, kind] = text.split(" ");
    [this.low, this.high, this.start, this.end] = [low, high, start, end].map(Number);
    this.isLog = kind === "log";
  }

  value(pixel) {
    const share = (pixel - this.start) / (this.end - this.start);
    return this.isLog ? this.low * (this.high / this.low) ** share : this.low + share * (this.high - this.low);
  }

  pixel(value) {
    const share = this.isLog
      ? Math.log(value / this.low) / Math.log(this.high / this.low)
      : (value - this.low) / (this.high - this.low);
    return this.start + share * (this.end - this.start);
  }
}

// Round values of a range, as Scale.ticks() of svg.py; a log range of less than a decade has linear ones.
const ticks = (low, high, isLog) => {
  if (isLog && high / low >= 10) {
    const powers = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) powers.push(p);
    return powers.flatMap((p) => [1, 2, 5].map((m) => m * 10 ** p)).filter((v) => low <= v && v <= high);
  }
  const raw = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k += 1) found.push(k * step);
  return found;
};
