// Places like the one clicked, by cosine of embeddings: of a raster, or of the model.

import { ask, latest } from "./api.js";
import { drawRamp } from "./legends.js";
import { option } from "./options.js";

const get = (id) => document.getElementById(id);
const BY_MODEL = "model";

export function makeSimilar(shared) {
  const { state, scene } = shared;

  let levels = {};

  function show(view) {
    levels = Object.fromEntries(view.embeddings.map(({ id, level }) => [id, level]));
    const options = view.embeddings.map(({ id, name }) => option(name, id));
    if (state.model && !view.refused) {
      options.push(new Option(`made by ${state.model} for this view`, BY_MODEL));
    }
    get("source").replaceChildren(...options);
    get("similar-part").hidden = options.length === 0;
    clear();
  }

  function clear() {
    for (const name of ["similar", "picked"]) scene.remove(name);
    get("clear").disabled = true;
    get("similar-legend").hidden = true;
    get("picked").textContent = "Click a place: how like it all others are.";
  }

  const share = () => get("similar-opacity").value / 100;

  const find = latest(async (place) => {
    const { view } = shared;
    const path = `/api/views/${view.id}`;
    let source = get("source").value;
    const look = { opacity: share(), level: levels[source] };
    if (source === BY_MODEL) {
      shared.say("The model is at work ...");
      const made = await ask(`${path}/embed`, { ...scene.seen(), ...place });
      source = made.id;
      look.box = made.window;
      look.level = made.level;
    }
    await ask(`${path}/similar/${source}`, place);
    if (view !== shared.view) return;
    scene.tiles("similar", `${path}/similar/${source}`, place, look);
    scene.mark("picked", place.row, place.column);
    get("clear").disabled = false;
    get("similar-legend").hidden = false;
    get("picked").textContent = `Like row ${place.row}, column ${place.column}; the mean of all is 0.`;
    shared.say("");
  }, shared.fail);

  get("similar-opacity").addEventListener("input", fade);
  function fade() {
    get("similar-opacity-value").textContent = `${get("similar-opacity").value} %`;
    scene.opacity("similar", share());
  }
  get("source").addEventListener("change", clear);
  get("clear").addEventListener("click", clear);
  drawRamp(get("similar-legend"), state.legends.likeness);
  fade();

  return {
    show,
    pick(place) {
      if (place && get("source").value) find(place);
    },
  };
}
