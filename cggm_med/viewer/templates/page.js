"use strict";
// Text of the case only ever becomes text nodes and attributes, never HTML.
const byId = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const CASE = JSON.parse(byId("content").textContent);
const AXIAL = 0, CORONAL = 1, SAGITTAL = 2, PLANES = 3, SOLID = 4;  // NiiVue's numbers
const GRID = 5;  // all modalities side by side, which this page draws itself
const VIEWS = [["three planes", PLANES, "M"], ["axial", AXIAL, "A"], ["coronal", CORONAL, "C"], ["sagittal", SAGITTAL, "S"], ["3-D", SOLID, "D"], ...(CASE.images.length > 1 ? [["modalities", GRID, "G"]] : [])];
const CROSSHAIR = "rgba(90, 215, 115, 0.8)";
const STYLES = ["contour", "filled", "hidden"];
const IN_PLANE = [[0, 1], [0, 2], [1, 2]];  // axes across and up of each plane
const THROUGH = [2, 1, 0];
const SIDES = [["L", "R"], ["P", "A"], ["I", "S"]];  // where each axis begins and ends
const BARS = [100, 50, 20, 10, 5, 2, 1];  // mm

const nv = new niivue.Niivue({
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  showAllOrientationMarkers: CASE.oriented,
  isOrientationTextVisible: CASE.oriented,
  fontColor: [0.9, 0.9, 0.9, 1],
  fontMinPx: 15,
  crosshairWidth: 0,  // drawn below, as thin as the screen can
  isOrientCube: CASE.oriented,
  dragMode: 9,  // the right button changes the window
  dragAndDropEnabled: false,
  multiplanarLayout: 2,
  multiplanarShowRender: 1,
  tileMargin: 4,
  logLevel: "error",
  clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
  viewModeHotKey: "",
});
const state = { modality: 0, view: PLANES, plane: AXIAL, style: {}, visible: {}, map: 0, lesion: -1, opacity: 0.5, crosshair: true };
const images = [];
const layers = CASE.layers.map((layer) => ({ ...layer, volume: null, codes: null, size: null }));
const texts = [...document.querySelectorAll("script.volume")];

// ---- regions and layers ------------------------------------------------------------------------------------------

const hasRegion = (layer, region) => layer.members.map((regions) => regions.includes(region));

/** Fills are a table of colours: each voxel gets that of its innermost region that is to be seen. */
function paintFills() {
  for (const layer of layers) {
    // A map takes the place of fills; contours stay.
    const filled = state.style[layer.name] === "filled" && !state.map;
    paint(layer, layer.members.map((regions) => {
      const seen = regions.filter((region) => state.visible[layer.name][region]);
      return filled && seen.length ? CASE.regions[seen[seen.length - 1]].colour : null;
    }));
  }
  if (map.volume) paint(map, MAPS[state.map].colours || []);
  nv.updateGLVolume();
}

/** Colours by code, null for none. */
function paint(overlay, colours) {
  const table = { R: [], G: [], B: [], A: [], I: [] };
  overlay.colours = colours.map((colour) => colour && [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  overlay.colours.forEach((colour, code) => {
    (colour || [0, 0, 0]).forEach((value, channel) => table["RGB"[channel]].push(value));
    table.A.push(colour ? 255 : 0);
    table.I.push(code);
  });
  if (colours.length) overlay.volume.setColormapLabel(table);
  overlay.volume.opacity = colours.some(Boolean) ? state.opacity : 0;
}

/** Lines around a region in one slice, each a list of points in voxels; they run halfway between voxel centres. */
function outlines(layer, region, plane, index) {
  const [across, up] = IN_PLANE[plane];
  const [width, height] = [layer.size[across], layer.size[up]];
  const steps = [1, layer.size[0], layer.size[0] * layer.size[1]];
  const inside = hasRegion(layer, region);
  const start = index * steps[3 - across - up];
  const at = (u, v) => u >= 0 && v >= 0 && u < width && v < height && inside[layer.codes[start + u * steps[across] + v * steps[up]]];
  const links = new Map();  // from the end of a piece to its other end
  const link = (a, b) => { for (const [from, to] of [[a, b], [b, a]]) links.set(from, [...(links.get(from) || []), to]); };
  const key = (u, v) => Math.round(2 * (u + 1)) * 100000 + Math.round(2 * (v + 1));
  for (let v = -1; v < height; v++) {
    for (let u = -1; u < width; u++) {
      const corners = [at(u, v), at(u + 1, v), at(u + 1, v + 1), at(u, v + 1)];
      const edges = [key(u + 0.5, v), key(u + 1, v + 0.5), key(u + 0.5, v + 1), key(u, v + 0.5)];
      const crossed = [0, 1, 2, 3].filter((edge) => corners[edge] !== corners[(edge + 1) % 4]);
      if (crossed.length === 2) link(edges[crossed[0]], edges[crossed[1]]);
      // Two voxels that touch at a corner: each keeps its own line.
      if (crossed.length === 4) corners[0] ? (link(edges[0], edges[3]), link(edges[1], edges[2])) : (link(edges[0], edges[1]), link(edges[2], edges[3]));
    }
  }
  const lines = [];
  while (links.size) {
    const line = [links.keys().next().value];
    for (let next = links.get(line[0])[0]; next !== undefined; ) {
      const last = line[line.length - 1];
      for (const [from, to] of [[last, next], [next, last]]) {
        const left = links.get(from).filter((_, i, all) => i !== all.indexOf(to));
        left.length ? links.set(from, left) : links.delete(from);
      }
      line.push(next);
      next = (links.get(next) || [])[0];
    }
    lines.push(line.map((point) => [Math.floor(point / 100000) / 2 - 1, (point % 100000) / 2 - 1]));
  }
  return lines;
}

/** The voxel at a share of the extent along right, anterior or superior. */
const atShare = (axis, share) => Math.min(CASE.axes[axis].size - 1, Math.max(0, Math.floor(share * CASE.axes[axis].size)));

/** The same as the file counts it, from 0 on, along the axis of the file that it belongs to. */
function stored(axis, share) {
  const { stored: along, ascending, size } = CASE.axes[axis];
  return { along, size, index: ascending ? atShare(axis, share) : size - 1 - atShare(axis, share) };
}

const remembered = new Map();
function outlinesOnce(layer, region, plane, index) {
  const key = [layer.name, region, plane, index].join();
  if (!remembered.has(key)) {
    if (remembered.size > 500) remembered.clear();
    remembered.set(key, outlines(layer, region, plane, index));
  }
  return remembered.get(key);
}

/** The planes on the screen: where each lies, and where a share of the extent along its axes does. */
function tiles() {
  if (state.view === GRID) return gridTiles();
  const ends = [nv.frac2mm([0, 0, 0]), nv.frac2mm([1, 1, 1])];  // mm along the volume's own axes
  return nv.screenSlices.filter((tile) => tile.axCorSag <= SAGITTAL).map((tile) => {
    const [across, up] = IN_PLANE[tile.axCorSag];
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const along = (axis, share) => ends[0][axis] + (ends[1][axis] - ends[0][axis]) * share;
    return {
      plane: tile.axCorSag,
      area: [left, top, width, height],
      mm: Math.abs(tile.fovMM[0]) / width,  // of a pixel; negative where the picture is mirrored
      depth: tile.sliceFrac,
      x: (share) => left + width * (along(across, share) - tile.leftTopMM[0]) / tile.fovMM[0],
      y: (share) => top + height * (1 - (along(up, share) - tile.leftTopMM[1]) / tile.fovMM[1]),
    };
  });
}

/** One plane of every modality, each as large as its cell allows for what is not background. */
function gridTiles() {
  const { width, height } = byId("contours");
  const columns = Math.ceil(Math.sqrt(CASE.images.length)), rows = Math.ceil(CASE.images.length / columns);
  const [wide, high] = [width / columns, height / rows];
  const ends = [nv.frac2mm([0, 0, 0]), nv.frac2mm([1, 1, 1])];
  const shown = IN_PLANE[state.plane].map((axis) => {
    const [low, high] = [CASE.box[0][axis], CASE.box[1][axis]];
    return { extent: Math.abs(ends[1][axis] - ends[0][axis]), middle: (low + high) / 2, part: Math.max(high - low, 0.2) };
  });
  const perMm = 0.95 * Math.min(wide / (shown[0].extent * shown[0].part), high / (shown[1].extent * shown[1].part));
  const mirrored = nv.opts.isRadiologicalConvention ? -1 : 1;
  return CASE.images.map((_, index) => {
    const [left, top] = [wide * (index % columns), high * Math.floor(index / columns)];
    return {
      plane: state.plane,
      modality: index,
      area: [left + 2, top + 2, wide - 4, high - 4],
      mm: 1 / perMm,
      depth: nv.scene.crosshairPos[THROUGH[state.plane]],
      x: (share) => left + wide / 2 + mirrored * (share - shown[0].middle) * shown[0].extent * perMm,
      y: (share) => top + high / 2 - (share - shown[1].middle) * shown[1].extent * perMm,
      // The same the other way round.
      shares: (x, y) => [shown[0].middle + mirrored * (x - left - wide / 2) / (shown[0].extent * perMm), shown[1].middle - (y - top - high / 2) / (shown[1].extent * perMm)],
    };
  });
}

/** A slice of a modality with what is filled. */
function drawSlice(context, { plane, modality, depth, x, y, area: [left, top, width, height] }, wide) {
  const [across, up] = IN_PLANE[plane], sizes = CASE.axes.map(({ size }) => size);
  const steps = [1, sizes[0], sizes[0] * sizes[1]];
  const volume = images[modality], { cal_min: low, cal_max: high } = volume;
  const values = volume.inRAS ||= volume.img2RAS();
  const [slope, intercept] = [volume.hdr.scl_slope || 1, volume.hdr.scl_inter || 0];
  const fills = [...layers, map].filter((overlay) => overlay.volume && overlay.volume.opacity);
  const [columns, rows] = [sizes[across], sizes[up]];
  const picture = new ImageData(columns, rows);
  const start = atShare(THROUGH[plane], depth) * steps[THROUGH[plane]];
  const mirrored = x(1) < x(0);
  for (let v = 0; v < rows; v++) {
    for (let u = 0; u < columns; u++) {
      const at = start + u * steps[across] + v * steps[up];
      const grey = 255 * Math.min(1, Math.max(0, (values[at] * slope + intercept - low) / (high - low)));
      const colour = [grey, grey, grey];
      for (const { codes, colours } of fills) {
        const fill = colours[codes[at]];
        if (fill) colour.forEach((value, i) => (colour[i] = value + (fill[i] - value) * state.opacity));
      }
      picture.data.set([...colour, 255], 4 * ((rows - 1 - v) * columns + (mirrored ? columns - 1 - u : u)));
    }
  }
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(canvas, Math.min(x(0), x(1)), y(1), Math.abs(x(1) - x(0)), y(0) - y(1));
  Object.assign(context, { font: `${14 * wide}px system-ui, sans-serif`, textBaseline: "top", textAlign: "left", fillStyle: "#e8e8e8" });
  context.fillText(CASE.images[modality].name, left + 8 * wide, top + 8 * wide);
  if (!CASE.oriented) return;
  const sides = mirrored ? SIDES[across].slice().reverse() : SIDES[across];
  context.fillText(sides[0], left + 8 * wide, top + height / 2);
  context.textAlign = "right";
  context.fillText(sides[1], left + width - 8 * wide, top + height / 2);
  context.textAlign = "center";
  context.fillText(SIDES[up][1], left + width / 2, top + 4 * wide);
}

/** NiiVue's canvas lies below, and must not react. */
function listenToGrid() {
  const canvas = byId("contours");
  const point = (event) => {
    if (!(event.buttons & 1)) return;
    const zoom = canvas.width / canvas.clientWidth, [x, y] = [event.offsetX * zoom, event.offsetY * zoom];
    const tile = tiles().find(({ area: [left, top, width, height] }) => x >= left && y >= top && x < left + width && y < top + height);
    if (!tile) return;
    const shares = [...nv.scene.crosshairPos];
    tile.shares(x, y).forEach((share, i) => (shares[IN_PLANE[tile.plane][i]] = Math.min(1, Math.max(0, share))));
    nv.scene.crosshairPos = shares;
    nv.createOnLocationChange();
    nv.drawScene();
  };
  canvas.onpointerdown = (event) => { byId("scan").focus(); point(event); };
  canvas.onpointermove = point;
  canvas.onwheel = (event) => { move(0, 0, event.deltaY < 0 ? 1 : -1); event.preventDefault(); };
}

/** What is drawn over the scan lies on a canvas of its own, above it, in the same tiles. */
function drawOver() {
  const canvas = byId("contours"), scan = byId("scan");
  if (canvas.width !== scan.width || canvas.height !== scan.height) Object.assign(canvas, { width: scan.width, height: scan.height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  const wide = scan.width / Math.max(1, scan.clientWidth);
  for (const tile of tiles()) {
    context.save();
    context.beginPath();
    context.rect(...tile.area);
    context.clip();
    if (state.view === GRID) drawSlice(context, tile, wide);
    drawContours(context, tile, wide);
    if (state.crosshair) drawCrosshair(context, tile, wide);
    drawScale(context, tile, wide);
    context.restore();
  }
}

function drawContours(context, { plane, depth, x, y }, wide) {
  const [across, up] = IN_PLANE[plane];
  for (const layer of layers) {
    if (state.style[layer.name] !== "contour") continue;
    CASE.regions.forEach((region, number) => {
      if (!state.visible[layer.name][number]) return;
      context.beginPath();
      for (const line of outlinesOnce(layer, number, plane, atShare(THROUGH[plane], depth))) {
        line.forEach(([u, v], i) => context[i ? "lineTo" : "moveTo"](x((u + 0.5) / layer.size[across]), y((v + 0.5) / layer.size[up])));
      }
      context.setLineDash(layer.name === "prediction" && layers.length > 1 ? [6 * wide, 4 * wide] : []);
      for (const [colour, breadth] of [["rgba(0, 0, 0, 0.55)", 3.4], [region.colour, 1.8]]) {
        Object.assign(context, { strokeStyle: colour, lineWidth: breadth * wide, lineJoin: "round" });
        context.stroke();
      }
    });
  }
}

function drawCrosshair(context, tile, wide) {
  const gap = 8 * wide;
  const [left, top, width, height] = tile.area;
  const [across, up] = IN_PLANE[tile.plane].map((axis) => nv.scene.crosshairPos[axis]);
  const [x, y] = [Math.floor(tile.x(across)) + 0.5, Math.floor(tile.y(up)) + 0.5];
  context.beginPath();
  for (const [fromX, fromY, toX, toY] of [[left, y, x - gap, y], [x + gap, y, left + width, y], [x, top, x, y - gap], [x, y + gap, x, top + height]]) {
    context.moveTo(fromX, fromY);
    context.lineTo(toX, toY);
  }
  Object.assign(context, { strokeStyle: CROSSHAIR, lineWidth: wide });
  context.setLineDash([]);
  context.stroke();
}

/** The number of the slice, and a bar of a round length. */
function drawScale(context, { plane, depth, mm, area: [left, top, width, height] }, wide) {
  const { index, size } = stored(THROUGH[plane], depth);
  const length = BARS.find((bar) => bar / mm <= width / 4);
  const margin = 8 * wide, bottom = top + height - margin, right = left + width - margin;
  const write = (text, align, x, y) => {
    context.textAlign = align;
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  };
  Object.assign(context, { font: `${12 * wide}px system-ui, sans-serif`, textBaseline: "bottom", lineJoin: "round", lineWidth: 3 * wide, strokeStyle: "#000", fillStyle: "#e8e8e8" });
  context.setLineDash([]);
  write(`slice ${index} (0–${size - 1})`, "left", left + margin, bottom);
  if (!length) return;
  context.fillRect(right - length / mm, bottom - 2 * wide, length / mm, 2 * wide);
  write(length < 10 ? `${length} mm` : `${length / 10} cm`, "right", right, bottom - 4 * wide);
}

// ---- maps and errors ---------------------------------------------------------------------------------------------

const map = { volume: null, codes: null };  // instead of the fills
const MAPS = [
  { name: "none" },
  ...(layers.length < 2 ? [] : CASE.regions.map(({ name }, region) => ({ name: `errors of ${name}`, region, fill: errorCodes, colours: [null, CASE.errors.missed, CASE.errors.false, CASE.errors.correct] }))),
  ...CASE.probabilities.map((region, index) => ({ name: `probability of ${CASE.regions[region].name}`, region, fill: (_, codes) => probabilityCodes(index, codes), colours: CASE.probability_colours })),
];

async function probabilityCodes(index, codes) {
  const text = texts[CASE.images.length + layers.length + index].textContent;
  codes.set((await niivue.NVImage.loadFromBase64({ name: "p.nii.gz", base64: text })).img);
}

/** 1 where only the truth has the region, 2 where only the prediction has it, 3 where both do. */
function errorCodes(region, codes) {
  const [truth, prediction] = layers.map((layer) => hasRegion(layer, region));
  const [true_, predicted] = layers.map((layer) => layer.volume.img);
  for (let i = 0; i < codes.length; i++) codes[i] = truth[true_[i]] + 2 * prediction[predicted[i]];
}

async function showMap(index) {
  if (!MAPS[index] || MAPS.length < 2) return;
  state.map = index;
  const { region, fill } = MAPS[index];
  if (fill) {
    if (!map.volume) nv.addVolume(map.volume = layers[0].volume.clone());
    const codes = new map.volume.img.constructor(map.volume.img.length);
    await fill(region, codes);
    if (state.map !== index) return;  // another one was asked for meanwhile
    map.volume.img.set(codes);
    map.codes = map.volume.img2RAS();
  }
  byId("map").value = index;
  byId("legend").replaceChildren(...legend(MAPS[index]));
  paintFills();
  nv.createOnLocationChange();
}

function legend({ region, fill, colours }) {
  if (!fill) return [];
  if (fill === errorCodes) return Object.entries(CASE.errors).map(([kind, colour]) => make("span", {}, swatch(colour), `${kind} ${CASE.regions[region].errors[kind].toFixed(2)} ml`));
  const bar = make("span", { className: "bar" });
  bar.style.background = `linear-gradient(90deg, ${colours.filter(Boolean).join()})`;
  return [make("span", {}, `${colours.findIndex(Boolean) / (colours.length - 1)} `, bar, " 1")];
}

async function showLesion(index) {
  if (!CASE.lesions.length) return;
  state.lesion = (index + CASE.lesions.length) % CASE.lesions.length;
  const { region, mm } = CASE.lesions[state.lesion];
  const rows = [...byId("lesions").querySelectorAll("li button")];
  rows.forEach((row, i) => i === state.lesion ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));
  rows[state.lesion].scrollIntoView({ block: "nearest" });
  await showMap(MAPS.findIndex((entry) => entry.fill === errorCodes && entry.region === region));
  goTo(mm);
}

// ---- what is shown -----------------------------------------------------------------------------------------------

const number = (value) => String(Number(value.toPrecision(4)));

async function image(index) {
  if (!images[index]) {
    const { name, window } = CASE.images[index];
    images[index] = await niivue.NVImage.loadFromBase64({ name: `${index}.nii.gz`, base64: texts[index].textContent, cal_min: window[0], cal_max: window[1] });
  }
  return images[index];
}

async function showModality(index) {
  if (!CASE.images[index]) return;
  state.modality = index;
  const volume = await image(index);
  if (state.modality !== index) return;  // another one was asked for meanwhile
  nv.volumes[0] = nv.back = volume;
  nv.updateGLVolume();
  check("modalities", index);
  showWindow();
  nv.createOnLocationChange();
}

async function showView(view) {
  if (view === GRID) {
    if (state.view === GRID) state.plane = (state.plane + 1) % 3;
    await Promise.all(CASE.images.map((_, index) => image(index)));
  } else if (view <= SAGITTAL) state.plane = view;
  state.view = view;
  byId("screen").className = view === GRID ? "grid" : "";
  nv.setSliceType(view === GRID ? state.plane : view);
  check("views", VIEWS.findIndex((entry) => entry[1] === view));
}

function setStyle(name, style) {
  if (!(name in state.style)) return;
  state.style[name] = style;
  byId(`${name}-${style}`).checked = true;
  paintFills();
}

function setOpacity(percent) {
  state.opacity = percent / 100;
  byId("opacity").value = percent;
  byId("opacity-value").textContent = `${percent} %`;
  paintFills();
}

function setRadiological(on) {
  byId("radiological").checked = on;
  nv.opts.sagittalNoseLeft = on;
  nv.setRadiologicalConvention(on);
  if (CASE.oriented) byId("convention").textContent = on
    ? "The patient's right is on the left of the picture (R … L), as seen from the feet and from the front."
    : "Neurological convention: the patient's left is on the left of the picture (L … R).";
}

function setWindow(low, high) {
  const { range } = CASE.images[state.modality];
  // White stays above black.
  const least = (range[1] - range[0]) / 1e4;
  Object.assign(nv.volumes[0], { cal_min: low, cal_max: Math.max(high, low + least) });
  nv.updateGLVolume();
  showWindow();
}

function showWindow() {
  const { name, window, range } = CASE.images[state.modality];
  const { cal_min: low, cal_max: high } = nv.volumes[0];
  const reach = window[1] - window[0];
  byId("windowed").textContent = name;
  for (const [id, value] of [["low", low], ["high", high]]) {
    const bounds = { min: Math.max(range[0], window[0] - reach / 2), max: Math.min(range[1], window[1] + 1.5 * reach) };
    Object.assign(byId(id), { ...bounds, step: (bounds.max - bounds.min) / 500 || 1, value });
    byId(`${id}-value`).textContent = number(value);
  }
}

function reset() {
  const { window } = CASE.images[state.modality];
  // So that what is not background fills the tiles.
  const zoom = 0.95 / Math.max(0.2, ...CASE.box[1].map((end, axis) => end - CASE.box[0][axis]));
  const ends = [nv.frac2mm([0, 0, 0]), nv.frac2mm([1, 1, 1])];
  const pan = [0, 1, 2].map((axis) => {
    const [from, to] = [ends[0][axis], ends[1][axis]];
    return (from + to) / 2 - zoom * (from + (to - from) * (CASE.box[0][axis] + CASE.box[1][axis]) / 2);
  });
  nv.setPan2Dxyzmm([...pan, zoom]);
  nv.setScale(zoom);
  nv.setRenderAzimuthElevation(200, 15);
  goTo(CASE.start);
  setWindow(...window);
}

function goTo(mm) {
  nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);  // true: by the affine, also of oblique scans
  nv.createOnLocationChange();
  nv.drawScene();
}

function move(across, up, through) {
  const flat = state.view <= SAGITTAL || state.view === GRID;
  const axes = flat ? [...IN_PLANE[state.plane], THROUGH[state.plane]] : [0, 1, 2];
  // The arrow to the left goes to the left of the picture.
  const mirrored = nv.opts.isRadiologicalConvention ? -1 : 1;
  const step = [0, 0, 0];
  [across * mirrored, up, through].forEach((n, i) => (step[axes[i]] += n));
  nv.moveCrosshairInVox(...step);
}

function showPosition(location) {
  const places = [...location.mm].slice(0, 3).map((mm, axis) => {
    const [negative, positive] = CASE.sides ? SIDES[axis] : ["−", ""];
    return `${mm < 0 ? negative : positive}${CASE.sides ? " " : ""}${Math.abs(mm).toFixed(1)}`;
  });
  const voxel = [];
  nv.scene.crosshairPos.forEach((share, axis) => { const { along, index } = stored(axis, share); voxel[along] = index; });
  byId("place").textContent = `${places.join("  ")} mm${CASE.oriented && !CASE.sides ? " (RAS+)" : ""}`;
  byId("voxel").textContent = `voxel ${voxel.join(", ")}`;
  byId("intensity").textContent = `${CASE.images[state.modality].name} ${number(location.values[0].value)}`;
  const names = layers.map((layer, i) => {
    const regions = layer.members[Math.round(location.values[i + 1].value)] || [];
    return `${layer.name}: ${regions.map((region) => CASE.regions[region].name).join(", ") || "none"}`;
  });
  const { fill, colours } = MAPS[state.map];
  if (fill && fill !== errorCodes && map.codes) {
    const [i, j, k] = nv.scene.crosshairPos.map((share, axis) => atShare(axis, share)), [x, y] = CASE.axes.map(({ size }) => size);
    names.push(`probability ${(map.codes[i + x * (j + y * k)] / (colours.length - 1)).toFixed(2)}`);
  }
  byId("found").replaceChildren(...names.map((text) => make("span", {}, text)));
}

// ---- the page around it ------------------------------------------------------------------------------------------

const check = (group, index) => [...byId(group).children].forEach((button, i) => {
  button.setAttribute("aria-checked", String(i === index));
  button.tabIndex = i === index ? 0 : -1;
});

function buttons(group, entries) {
  byId(group).append(...entries.map(([text, key, act]) => {
    const button = make("button", { type: "button", onclick: act }, text, " ", make("kbd", {}, key));
    button.setAttribute("role", "radio");
    return button;
  }));
  byId(group).addEventListener("keydown", (event) => {
    const all = [...byId(group).children];
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
    event.preventDefault();
    event.stopPropagation();
  });
}

function swatch(colour) {
  const square = make("span", { className: "swatch" });
  square.style.background = colour;
  return square;
}

function describeRegions() {
  const both = layers.length === 2;
  const columns = [...(both ? ["Dice"] : []), ...layers.map((layer) => `${layer.name} (ml)`)];
  const table = byId("regions");
  if (!CASE.regions.length || !layers.length) return table.remove();
  table.tHead.append(make("tr", {}, ...["", ...columns].map((text) => make("th", { scope: "col" }, text))));
  CASE.regions.forEach((region, index) => {
    const row = make("tr", {}, make("th", { scope: "row" }, swatch(region.colour), region.name));
    if (both) row.append(make("td", {}, region.dice.toFixed(3)));
    for (const layer of layers) {
      const box = make("input", { type: "checkbox", checked: true, onchange: (event) => { state.visible[layer.name][index] = event.target.checked; paintFills(); } });
      box.setAttribute("aria-label", `show ${region.name} of the ${layer.name}`);
      row.append(make("td", {}, make("label", {}, box, ` ${region[layer.name].toFixed(2)}`)));
    }
    table.tBodies[0].append(row);
    if (region.meaning) table.tBodies[0].append(make("tr", { className: "meaning" }, make("td", { colSpan: columns.length + 1 }, region.meaning)));
  });
  byId("measures").textContent = both
    ? "Dice of this case, whole volume; 1 where a region is rightly empty. Regions may overlap: the innermost is on top."
    : CASE.regions.some((region) => region.meaning) ? "Regions may overlap: the innermost is on top." : "";
}

function describeLayers() {
  const box = byId("layers");
  if (!layers.length) return;
  box.append(make("h2", {}, "Layers"));
  for (const { name } of layers) {
    const choices = STYLES.map((style) => make("label", {}, make("input", { type: "radio", name, id: `${name}-${style}`, onchange: () => setStyle(name, style) }), ` ${style}`));
    const group = make("fieldset", { className: "layer" }, make("legend", {}, name, " ", make("kbd", {}, name[0].toUpperCase())), ...choices);
    box.append(group);
  }
  const slider = make("input", { type: "range", id: "opacity", min: 0, max: 100, oninput: (event) => setOpacity(Number(event.target.value)) });
  box.append(make("label", { className: "slider" }, "opacity", slider, make("output", { id: "opacity-value" })));
  if (MAPS.length > 1) {
    const choice = make("select", { id: "map", onchange: (event) => showMap(Number(event.target.value)) }, ...MAPS.map(({ name }, i) => make("option", { value: i }, name)));
    box.append(make("label", { className: "slider" }, make("span", {}, "map ", make("kbd", {}, "E")), choice), make("p", { id: "legend" }));
  }
  const dashed = layers.length > 1 ? "Contours: truth solid, prediction dashed. " : "";
  box.append(make("p", { className: "dim" }, `${dashed}3-D shows what is filled.`));
}

function describeLesions() {
  if (layers.length < 2) return;
  const box = byId("lesions"), shown = CASE.lesions.length;
  const more = CASE.lesions_found > shown ? `, the ${shown} largest of ${CASE.lesions_found}` : "";
  box.append(make("h2", {}, `Missed and false lesions${more} `, make("kbd", {}, "B"), " ", make("kbd", {}, "N")));
  if (shown) box.append(make("ol", {}, ...CASE.lesions.map(({ kind, region, ml }, i) => make("li", {}, make("button", { type: "button", onclick: () => showLesion(i) },
    make("span", {}, swatch(CASE.errors[kind]), kind), make("span", {}, CASE.regions[region].name), make("span", {}, `${number(ml)} ml`))))));
  box.append(make("p", { className: "dim" }, `${shown ? "" : "None. "}In each region, ${CASE.lesion_rules}.`));
}

const next = (name) => setStyle(name, STYLES[(STYLES.indexOf(state.style[name]) + 1) % STYLES.length]);
const KEYS = {
  ...Object.fromEntries(CASE.images.slice(0, 9).map((_, i) => [String(i + 1), () => showModality(i)])),
  ...Object.fromEntries(VIEWS.map(([, view, key]) => [key, () => showView(view)])),
  ...Object.fromEntries(layers.map(({ name }) => [name[0].toUpperCase(), () => next(name)])),
  ...(MAPS.length > 1 ? { E: () => showMap((state.map + 1) % MAPS.length) } : {}),
  N: () => showLesion(state.lesion + 1),
  B: () => showLesion(Math.max(0, state.lesion) - 1),
  ",": () => leave(CASE.before),
  ".": () => leave(CASE.following),
  R: reset,
  X: () => { state.crosshair = !state.crosshair; nv.drawScene(); },
};
const ARROWS = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] };

/** Before NiiVue sees them, whose own keys would do other things. */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const onScan = event.target === byId("scan") || event.target === document.body;
  const act = KEYS[event.key.toUpperCase()] || (onScan && ARROWS[event.key] && (() => move(...ARROWS[event.key])));
  if (act) { act(); event.preventDefault(); }
  if (act || onScan) event.stopPropagation();
}

function describe() {
  byId("name").textContent = CASE.name;
  byId("facts").textContent = Object.entries(CASE.facts).map(([name, fact]) => `${name} ${fact}`).join(" · ");
  byId("grid").textContent = CASE.grid;
  for (const [link, text, key] of [[CASE.before, "previous", ","], [CASE.following, "next", "."]]) {
    if (link) byId("cases").append(make("a", { href: link.address, title: link.name, onclick: (event) => { leave(link); event.preventDefault(); } }, `${text} case `, make("kbd", {}, key)));
  }
  CASE.notes.forEach((note) => byId("notes").append(make("p", {}, note)));
  if (CASE.rounded) byId("notes").append(make("p", { className: "plain" }, CASE.rounded));
  buttons("modalities", CASE.images.map(({ name }, i) => [name, i < 9 ? String(i + 1) : "", () => showModality(i)]));
  buttons("views", VIEWS.map(([text, view, key]) => [text, key, () => showView(view)]));
  describeRegions();
  describeLayers();
  describeLesions();
  const keys = [
    ["left button", "move the crosshair; turn 3-D"],
    ["right button", "drag: window (up and down brightness, left and right contrast)"],
    ["wheel", "slices; zoom of 3-D"],
    ["arrows", "crosshair by one voxel"],
    ["Page Up, Down", "next slice"],
    ["1 – 9", "modality"],
    ...VIEWS.map(([text, , key]) => [key, text]),
    ...(CASE.images.length > 1 ? [["G again", "next plane of all modalities"]] : []),
    ...layers.map(({ name }) => [name[0].toUpperCase(), `${name}: contour, filled, hidden`]),
    ...(MAPS.length > 1 ? [["E", "next map"]] : []),
    ...(CASE.lesions.length ? [["N, B", "next missed or false lesion, and back"]] : []),
    ...(CASE.before || CASE.following ? [[", and .", "previous and next case, shown in the same way"]] : []),
    ["X", "crosshair on and off"],
    ["R", "reset view and window"],
  ];
  keys.forEach(([key, text]) => byId("keys").append(make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)));
  byId("radiological").onchange = (event) => setRadiological(event.target.checked);
  byId("low").oninput = (event) => setWindow(Number(event.target.value), nv.volumes[0].cal_max);
  byId("high").oninput = (event) => setWindow(Math.min(nv.volumes[0].cal_min, Number(event.target.value)), Number(event.target.value));
  byId("reset").onclick = reset;
  document.addEventListener("keydown", onKey, true);
  listenToGrid();
}

/** To another case, which begins as this one is shown. */
function leave(link) {
  if (!link) return;
  const settings = { modality: CASE.images[state.modality].name, view: VIEWS.find(([, view]) => view === state.view)[0], opacity: 100 * state.opacity, map: MAPS[state.map].name, ...state.style };
  if (state.view === GRID) settings.plane = VIEWS.find(([, view]) => view === state.plane)[0];
  if (!byId("radiological").checked) settings.convention = "neurological";
  if (!state.crosshair) settings.crosshair = "off";
  location.href = `${link.address}#${new URLSearchParams(settings)}`;
}

/** The address may say how to begin: page.html#modality=t1&view=axial&truth=hidden&opacity=80&mm=10,-20,5&window=0,900 */
async function begin() {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.has("modality")) await showModality(CASE.images.findIndex(({ name }) => name === asked.get("modality")));
  for (const { name } of layers) if (STYLES.includes(asked.get(name))) setStyle(name, asked.get(name));
  if (asked.has("opacity")) setOpacity(Number(asked.get("opacity")));
  if (asked.has("map")) await showMap(MAPS.findIndex(({ name }) => name === asked.get("map")));
  if (asked.has("lesion")) await showLesion(Number(asked.get("lesion")) - 1);
  if (asked.has("mm")) goTo(asked.get("mm").split(",").map(Number));
  if (asked.has("window")) setWindow(...asked.get("window").split(",").map(Number));
  if (asked.get("convention") === "neurological") setRadiological(false);
  if (asked.get("crosshair") === "off") KEYS.X();
  const view = VIEWS.find(([text]) => text === asked.get("view"));
  if (["axial", "coronal", "sagittal"].includes(asked.get("plane"))) state.plane = VIEWS.find(([text]) => text === asked.get("plane"))[1];
  if (view) await showView(view[1]);
}

async function start() {
  describe();
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2; open the page in another one");
  await nv.attachToCanvas(byId("scan"));
  nv.onLocationChange = showPosition;
  nv.onIntensityChange = showWindow;
  const draw = nv.drawScene.bind(nv);
  nv.drawScene = (...all) => { const result = draw(...all); drawOver(); return result; };
  nv.addVolume(await image(0));
  for (const [index, layer] of layers.entries()) {
    layer.volume = await niivue.NVImage.loadFromBase64({ name: `${layer.name}.nii.gz`, base64: texts[CASE.images.length + index].textContent });
    layer.codes = layer.volume.img2RAS();
    layer.size = layer.volume.dimsRAS.slice(1, 4);
    state.visible[layer.name] = CASE.regions.map(() => true);
    // Truth and prediction together: the one in lines upon the other.
    state.style[layer.name] = layer.name === "truth" && layers.length > 1 ? "contour" : "filled";
    byId(`${layer.name}-${state.style[layer.name]}`).checked = true;
    nv.addVolume(layer.volume);
  }
  nv.setInterpolation(false);
  if (layers.length) setOpacity(50);
  setRadiological(true);
  await showModality(0);
  showView(PLANES);
  reset();
  await begin();
  byId("message").textContent = "";
}

start().catch((error) => { byId("message").textContent = `This page cannot be shown: ${error.message}`; console.error(error); });
