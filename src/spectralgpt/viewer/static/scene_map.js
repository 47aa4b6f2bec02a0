// The map: Leaflet in the scene's own pixels, row downwards. Nothing is reprojected.

/* global L */

const TILE = 256;
const NEAREST_ZOOM = 5;
const PANES = { overlay: 310, rebuilt: 320, similar: 330 };

const PixelTiles = L.TileLayer.extend({
  getTileUrl({ x, y, z }) {
    const [path, query] = this.options.address;
    return `${path}/tiles/${-z}/${y}/${x}?${new URLSearchParams(query)}`;
  },
});

// Cuts away the left share of the map over the scene, and draws a line there.
function makeDivide(map, element) {
  const line = L.DomUtil.create("div", "divide", element);
  let share = 0;
  function draw() {
    const { x: width, y: height } = map.getSize();
    const { x, y } = map.containerPointToLayerPoint([0, 0]);
    const at = Math.round(share * width);
    const clip = `rect(${y}px, ${x + width}px, ${y + height}px, ${x + at}px)`;
    map.getPane("overlay").style.clip = share ? clip : "";
    line.style.left = `${at}px`;
    line.hidden = !share;
  }
  map.on("move zoomend resize", draw);
  return (value) => {
    share = value;
    if (element.querySelector("img")) draw();
  };
}

export function makeMap(element, onError) {
  let size = null;
  // Lengths on the ground, which the scale says.
  const distance = (a, b) => L.CRS.Simple.distance(a, b) * size.pixel_m;
  const scale = L.control.scale({ imperial: false });
  const map = L.map(element, {
    crs: L.extend({}, L.CRS.Simple, { distance }),
    attributionControl: false,
    zoomSnap: 0.25,
    maxZoom: NEAREST_ZOOM,
    maxBoundsViscosity: 0.7,
  });
  for (const [name, height] of Object.entries(PANES)) {
    map.createPane(name).style.zIndex = height;
  }
  map.on("zoomend", () => element.classList.toggle("near", map.getZoom() > 0));
  const layers = {};
  const divide = makeDivide(map, element);

  const boxOf = ({ row, column, height, width }) => [
    [-row, column],
    [-row - height, column + width],
  ];
  const whole = () => boxOf({ row: 0, column: 0, ...size });

  function put(name, layer) {
    layers[name]?.remove();
    layers[name] = layer?.addTo(map) ?? null;
  }

  async function explain(tile) {
    // An image says only that it failed.
    const answer = await fetch(tile.src).catch(() => null);
    if (answer && !answer.ok) onError((await answer.json()).error);
  }

  return {
    map,
    show(view) {
      for (const name of Object.keys(layers)) put(name, null);
      size = { height: view.height, width: view.width, pixel_m: view.pixel_m };
      scale.remove();
      const levels = Math.ceil(Math.log2(Math.max(view.height, view.width) / TILE));
      map.setMinZoom(Math.min(0, -levels));
      map.setMaxBounds(L.latLngBounds(whole()).pad(0.5));
      map.fitBounds(whole(), { animate: false });
      element.classList.toggle("near", map.getZoom() > 0);
      if (view.pixel_m) scale.addTo(map);
    },
    divide,
    tiles(name, path, query, { opacity = 1, box = null, level = 0 } = {}) {
      const layer = new PixelTiles("", {
        address: [path, query],
        bounds: box ? boxOf(box) : whole(),
        pane: name in PANES ? name : "tilePane",
        minZoom: map.getMinZoom(),
        // Finer tiles than the file has would only repeat its pixels.
        maxNativeZoom: -level,
        maxZoom: NEAREST_ZOOM,
        tileSize: TILE,
        noWrap: true,
        opacity,
        className: name,
      });
      layer.on("tileerror", ({ tile }) => explain(tile));
      put(name, layer);
    },
    image(name, url, box) {
      const options = { pane: name, className: name };
      const layer = L.imageOverlay(url, boxOf(box), options);
      layer.on("error", () => explain(layer.getElement()));
      put(name, layer);
    },
    outline(name, box) {
      const look = { color: "#ffffff", weight: 1.5, fill: false, interactive: false };
      put(name, box && L.rectangle(boxOf(box), look));
    },
    mark(name, row, column) {
      const look = { radius: 6, color: "#ffffff", weight: 2, fill: false, interactive: false };
      put(name, L.circleMarker([-row - 0.5, column + 0.5], look));
    },
    remove: (name) => put(name, null),
    opacity: (name, share) => layers[name]?.setOpacity(share),
    pixelAt({ lat, lng }) {
      const row = Math.floor(-lat);
      const column = Math.floor(lng);
      const inside = row >= 0 && column >= 0 && row < size.height && column < size.width;
      return inside ? { row, column } : null;
    },
    // What is looked at, as far as it lies on the scene.
    seen() {
      const box = map.getBounds();
      const top = Math.max(0, Math.floor(-box.getNorth()));
      const left = Math.max(0, Math.floor(box.getWest()));
      const bottom = Math.min(size.height, Math.ceil(-box.getSouth()));
      const right = Math.min(size.width, Math.ceil(box.getEast()));
      if (bottom <= top || right <= left) return null;
      return { top, left, height: bottom - top, width: right - left };
    },
  };
}
