// Maps over the scene: which one, how opaque, and what its colours mean.

import { drawClasses, drawRamp } from "./legends.js";
import { option } from "./options.js";

const get = (id) => document.getElementById(id);

export function makeMaps(shared) {
  const part = { show, asked, changed: () => {} };
  const { maps } = shared.state;

  function show(view) {
    get("map-part").hidden = view.maps.length === 0;
    const options = view.maps.map((id) => option(maps[id].name, id));
    get("overlay").replaceChildren(...options, new Option("no map", ""));
    choose();
  }

  function asked() {
    const map = get("overlay").value;
    return map ? { map, layer: get("layer").value } : {};
  }

  function choose() {
    const found = maps[get("overlay").value];
    const names = found?.layers ?? [];
    get("layer").replaceChildren(...names.map((name, i) => option(name, i)));
    get("layer").hidden = names.length < 2;
    get("layer-label").hidden = names.length < 2;
    apply();
  }

  function apply() {
    const { map, layer } = asked();
    part.changed();
    swipe();
    if (!map) {
      shared.scene.remove("overlay");
      get("legend").replaceChildren();
      return;
    }
    const path = `/api/views/${shared.view.id}/maps/${map}`;
    shared.scene.tiles("overlay", path, { layer }, { opacity: share() });
    if (maps[map].kind === "classes") drawClasses(get("legend"), maps[map].classes);
    else drawRamp(get("legend"), maps[map].ramps[layer], maps[map].unit);
  }

  const share = () => get("opacity").value / 100;
  function fade() {
    get("opacity-value").textContent = `${get("opacity").value} %`;
    shared.scene.opacity("overlay", share());
  }

  function swipe() {
    get("swipe-value").textContent = `${get("swipe").value} %`;
    shared.scene.divide(asked().map ? get("swipe").value / 100 : 0);
  }

  get("overlay").addEventListener("change", choose);
  get("swipe").addEventListener("input", swipe);
  get("layer").addEventListener("change", apply);
  get("opacity").addEventListener("input", fade);
  fade();
  return part;
}
