// The page: reads what there is, then lets each part drive the map.

import { ask, latest } from "./api.js";
import { drawChart, listNumbers } from "./chart.js";
import { makeMaps } from "./maps_part.js";
import { makePicture } from "./picture_part.js";
import { makeRebuild } from "./rebuild_part.js";
import { makeMap } from "./scene_map.js";
import { makeSimilar } from "./similar_part.js";
import { option } from "./options.js";

const get = (id) => document.getElementById(id);

function say(text, isError = false) {
  get("status").textContent = text;
  get("status").classList.toggle("error", isError);
}
const fail = (text) => say(text, true);

async function start() {
  const state = await ask("/api/state");
  const scene = makeMap(get("map"), fail);
  const shared = { state, scene, say, fail, view: null, bands: [], look: () => {} };
  const all = [makePicture, makeMaps, makeRebuild, makeSimilar].map((make) => make(shared));
  const [picture, maps, rebuild, similar] = all;

  picture.changed = () => rebuild.redraw();
  rebuild.changed = () => lookAgain();

  function show(view) {
    shared.view = view;
    scene.show(view);
    get("about").textContent = [view.sensor, view.date, `${view.height} x ${view.width} px`, view.crs]
      .filter(Boolean)
      .join(" · ");
    get("spectrum-part").hidden = view.bands.length === 0;
    draw(null);
    say("");
    for (const part of all) part.show(view);
  }

  function draw(found) {
    if (shared.view.bands.length === 0) return;
    drawChart(get("chart"), shared.view.bands, found);
    listNumbers(get("numbers"), shared.view.bands, found);
  }

  let last = null;
  const look = latest(async (place) => {
    const { view } = shared;
    const asked = { ...place, ...maps.asked(), ...rebuild.asked() };
    const found = await ask(`/api/views/${view.id}/pixel`, asked);
    if (view !== shared.view) return;
    draw(found);
    const at = "x" in found ? `x ${found.x.toFixed(2)}, y ${found.y.toFixed(2)}` : "";
    const where = `row ${found.row}, column ${found.column}`;
    get("place").textContent = where;
    const parts = [where, at, found.map && `map: ${found.map}`];
    get("pixel").textContent = parts.filter(Boolean).join(" · ");
  }, fail);

  function lookAt(position) {
    last = scene.pixelAt(position);
    if (last) look(last);
  }
  function lookAgain() {
    if (last) look(last);
  }
  maps.changed = lookAgain;

  let byKeyboard = false;
  function moveBy(isKeyboard) {
    byKeyboard = isKeyboard;
    get("map").classList.toggle("by-keyboard", isKeyboard);
  }
  scene.map.on("mousemove", ({ latlng }) => {
    moveBy(false);
    lookAt(latlng);
  });
  scene.map.on("click", ({ latlng }) => {
    lookAt(latlng);
    similar.pick(scene.pixelAt(latlng));
  });
  get("map").addEventListener("keydown", (event) => {
    moveBy(true);
    if (event.key === "Enter") {
      lookAt(scene.map.getCenter());
      similar.pick(scene.pixelAt(scene.map.getCenter()));
    }
  });
  scene.map.on("moveend", () => {
    if (byKeyboard) lookAt(scene.map.getCenter());
  });

  for (const view of state.views) get("view").add(option(view.name, view.id));
  get("view").disabled = state.views.length < 2;
  get("view").addEventListener("change", () => {
    last = null;
    show(state.views.find((view) => view.id === get("view").value));
  });
  show(state.views[0]);
  document.body.dataset.ready = "yes";
}

start().catch((error) => fail(error.message));
