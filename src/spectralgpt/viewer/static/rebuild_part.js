// The reconstruction of what is looked at, at a mask ratio that is dragged.

import { ask, latest } from "./api.js";
import { drawRamp } from "./legends.js";

const get = (id) => document.getElementById(id);

export function makeRebuild(shared) {
  const part = { show, redraw, asked, changed: () => {} };
  let found = null;
  let seed = 0;

  function show(view) {
    const { can_rebuild: able } = shared.state;
    get("rebuild-part").hidden = !able;
    get("scores").textContent = view.refused;
    for (const id of ["ratio", "rebuild"]) get(id).disabled = Boolean(view.refused);
    forget();
  }

  function forget() {
    found = null;
    get("kind").disabled = true;
    get("other-mask").disabled = true;
    get("angle-legend").hidden = true;
  }

  function asked() {
    return found ? { rebuilt: found.id } : {};
  }

  const rebuild = latest(async () => {
    const { view } = shared;
    const place = found?.asked ?? shared.scene.seen();
    if (!place) throw new Error("Nothing of the scene is in view.");
    shared.say("The model is at work ...");
    const ratio = (get("ratio").value / 100).toFixed(2);
    const made = await ask(`/api/views/${view.id}/rebuild`, { ...place, mask_ratio: ratio, seed });
    if (view !== shared.view) return;
    found = { ...made, asked: place };
    get("kind").disabled = false;
    get("other-mask").disabled = false;
    if (get("kind").value === "none") get("kind").value = "rebuilt";
    get("scores").textContent = describe(made);
    shared.scene.outline("outline", made.window);
    shared.say("");
    redraw();
    part.changed();
  }, shared.fail);

  function describe({ scores, window, mask_ratio: ratio }) {
    const text = (value, unit) => (value === null ? "nothing hidden" : `${value.toFixed(1)}${unit}`);
    return (
      `${window.height} x ${window.width} px with ${Math.round(ratio * 100)} % hidden: ` +
      `spectral angle ${text(scores.spectral_angle_mean_deg, "°")} ` +
      `(without learning ${text(scores.spectral_angle_mean_deg_without_learning, "°")}), ` +
      `PSNR ${text(scores.psnr_db, " dB")}.`
    );
  }

  function redraw() {
    if (!found) return;
    const kind = get("kind").value;
    get("angle-legend").hidden = kind !== "angle";
    if (kind === "none") {
      shared.scene.remove("rebuilt");
      return;
    }
    const query = new URLSearchParams({ bands: shared.bands });
    shared.scene.image("rebuilt", `/api/rebuilt/${found.id}/${kind}?${query}`, found.window);
  }

  get("ratio").addEventListener("input", () => {
    label();
    rebuild();
  });
  const label = () => {
    get("ratio-value").textContent = `${get("ratio").value} %`;
  };
  get("rebuild").addEventListener("click", () => {
    // The window moves only when it is asked to.
    found = null;
    rebuild();
  });
  get("other-mask").addEventListener("click", () => {
    seed += 1;
    rebuild();
  });
  get("kind").addEventListener("change", redraw);
  drawRamp(get("angle-legend"), shared.state.legends.angle, "°");
  label();
  return part;
}
