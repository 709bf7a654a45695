// A short plot of the last minute as inline SVG. Its title tells the newest value.

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 48;
const LENGTH = 60;

/** Keeps the last values of one figure. */
export class Series {
  #values = [];

  add(value) {
    this.#values.push(value ?? null);
    if (this.#values.length > LENGTH) this.#values.shift();
  }

  plot(title) {
    const known = this.#values.filter((value) => value !== null);
    const highest = Math.max(...known, 1e-9);
    const made = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "plot" });
    made.append(svg("title", {}, title));
    made.append(svg("path", { d: this.#path(highest) }));
    return made;
  }

  #path(highest) {
    const step = WIDTH / (LENGTH - 1);
    const first = LENGTH - this.#values.length;
    let pen = "M";
    return this.#values
      .map((value, index) => {
        if (value === null) return (pen = "M") && "";
        const x = ((first + index) * step).toFixed(1);
        const y = (HEIGHT - 2 - (value / highest) * (HEIGHT - 4)).toFixed(1);
        const point = `${pen}${x} ${y}`;
        pen = "L";
        return point;
      })
      .join("");
  }
}

function svg(name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}
