// The spectrum of a pixel: measured, and rebuilt where a window was rebuilt.

const NAMESPACE = "http://www.w3.org/2000/svg";
const WIDTH = 318;
const HEIGHT = 190;
const EDGE = { left: 34, right: 8, top: 20, bottom: 30 };
const LEAST_TOP = 0.3;

function add(parent, name, attributes, text) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function steps(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step / 1e6; at += 1) {
    found.push(Number((at * step).toPrecision(6)));
  }
  return found;
}

function linesOf(points) {
  // A band without data leaves a gap.
  let isOpen = false;
  return points
    .map((point) => {
      const part = point ? `${isOpen ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}` : "";
      isOpen = Boolean(point);
      return part;
    })
    .join("");
}

export function drawChart(figure, bands, found) {
  const scene = found?.spectrum ?? [];
  const rebuilt = found?.rebuilt ?? [];
  const known = [...scene, ...rebuilt].filter((value) => value !== null);
  const nm = bands.map((band) => band.wavelength_nm);
  const [first, last] = [Math.min(...nm) - 40, Math.max(...nm) + 40];
  const low = Math.min(0, ...known);
  const high = Math.max(LEAST_TOP, ...known) * 1.05;
  const x = (value) => EDGE.left + ((value - first) / (last - first)) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);

  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "Reflectance over wavelength");
  for (const value of steps(low, high, 4)) {
    add(svg, "line", { class: "axis", x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) });
    add(svg, "text", { x: EDGE.left - 5, y: y(value) + 3.5, "text-anchor": "end" }, value);
  }
  for (const value of steps(first, last, 5)) {
    add(svg, "text", { x: x(value), y: HEIGHT - EDGE.bottom + 13, "text-anchor": "middle" }, value);
  }
  add(svg, "text", { x: WIDTH - EDGE.right, y: HEIGHT - 4, "text-anchor": "end" }, "wavelength, nm");
  add(svg, "text", { x: 2, y: 10 }, "reflectance");
  drawSeries(svg, "scene", scene, nm, x, y);
  if (rebuilt.length) {
    drawSeries(svg, "rebuilt", rebuilt, nm, x, y);
    add(svg, "path", { class: "rebuilt", d: "M182 7h22" });
    add(svg, "text", { class: "key", x: 209, y: 10 }, "rebuilt where hidden");
  }
  figure.replaceChildren(svg);
}

function drawSeries(svg, kind, values, nm, x, y) {
  const points = values.map((value, i) => (value === null ? null : [x(nm[i]), y(value)]));
  add(svg, "path", { class: kind, d: linesOf(points) });
  if (points.length > 60) return;
  for (const [left, top] of points.filter(Boolean)) {
    if (kind === "scene") add(svg, "circle", { class: kind, cx: left, cy: top, r: 2.6 });
    else add(svg, "rect", { class: kind, x: left - 2.8, y: top - 2.8, width: 5.6, height: 5.6 });
  }
}

export function listNumbers(body, bands, found) {
  const text = (value) => (value === null || value === undefined ? "" : value.toFixed(4));
  body.replaceChildren(
    ...bands.map((band, i) => {
      const row = document.createElement("tr");
      const cells = [band.name, band.wavelength_nm, text(found?.spectrum?.[i]), text(found?.rebuilt?.[i])];
      for (const cell of cells) row.insertCell().textContent = cell;
      return row;
    }),
  );
}
