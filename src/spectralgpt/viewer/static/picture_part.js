// The picture: which bands are red, green and blue.

const get = (id) => document.getElementById(id);
const COLOURS = ["red", "green", "blue"];

export function makePicture(shared) {
  const part = { show, changed: () => {} };

  function show(view) {
    get("picture-part").hidden = view.bands.length === 0;
    if (view.bands.length === 0) return;
    const options = view.composites.map(
      ({ name, bands }) => new Option(`${name} (${bands.join(", ")})`, bands.join(",")),
    );
    get("composite").replaceChildren(...options, new Option("own choice of three", "own"));
    COLOURS.forEach((colour, i) => {
      const names = view.bands.map((band) => new Option(`${band.name} · ${Math.round(band.wavelength_nm)}`, band.name));
      get(colour).replaceChildren(...names);
      const first = view.composites[0].bands;
      get(colour).value = first[i] ?? first[0];
    });
    apply();
  }

  function apply() {
    const isOwn = get("composite").value === "own";
    get("own-bands").hidden = !isOwn;
    const own = COLOURS.map((colour) => get(colour).value);
    shared.bands = isOwn ? own : get("composite").value.split(",");
    const path = `/api/views/${shared.view.id}`;
    shared.scene.tiles("picture", path, { bands: shared.bands });
    part.changed();
  }

  for (const id of ["composite", ...COLOURS]) get(id).addEventListener("change", apply);
  return part;
}
