// Legends: classes with their colours, or a ramp of colours with its ends.

export function drawClasses(element, classes) {
  const list = document.createElement("ul");
  for (const each of classes) {
    const item = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = each.colour;
    item.title = each.name;
    item.append(swatch, each.name);
    list.append(item);
  }
  element.replaceChildren(list);
}

export function drawRamp(element, { colours, low, high }, unit = "") {
  const ramp = document.createElement("div");
  ramp.className = "ramp";
  ramp.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
  const ends = document.createElement("div");
  ends.className = "ends";
  for (const value of [low, high]) {
    const end = document.createElement("span");
    end.textContent = `${Number(value.toPrecision(3))}${unit}`;
    ends.append(end);
  }
  element.replaceChildren(ramp, ends);
}
