"use strict";

// Fills each `.explorer` of the page from the JSON within it.

const SIDE = 448; // pixels of a picture's longer side
const WHITE = 0xffffffff;
const IGNORED = 255; // index of pixels without a true label
const SVG = "http://www.w3.org/2000/svg";

// Returns a label map {width, height, index} from a PNG of its indices.
async function readLabels(png) {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const { width, height } = image;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return { width, height, index: data.filter((_, i) => i % 4 === 0) };
}

// Returns the nearest labels for a picture of the given size.
function enlarge(labels, width, height) {
  const result = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor((y * labels.height) / height) * labels.width;
    for (let x = 0; x < width; x++) {
      result[y * width + x] = labels.index[row + Math.floor((x * labels.width) / width)];
    }
  }
  return result;
}

// Returns a mask of the pixels with another segment within `reach` pixels.
function findEdges(index, width, height, reach) {
  const edges = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const rows = [Math.max(y - reach, 0), y, Math.min(y + reach, height - 1)];
    for (let x = 0; x < width; x++) {
      const own = index[y * width + x];
      const left = Math.max(x - reach, 0), right = Math.min(x + reach, width - 1);
      for (const row of rows) {
        const start = row * width;
        const same = index[start + left] === own && index[start + x] === own
          && index[start + right] === own;
        if (!same) {
          edges[y * width + x] = 1;
          break;
        }
      }
    }
  }
  return edges;
}

// Sets each pixel of a canvas to `color(pixel)`; undefined leaves it.
function paint(canvas, color) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const picture = context.getImageData(0, 0, canvas.width, canvas.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = color(i) ?? pixels[i];
  context.putImageData(picture, 0, 0);
}

function drawImage(canvas, image) {
  const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
  canvas.width = Math.round(image.naturalWidth * scale);
  canvas.height = Math.round(image.naturalHeight * scale);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = image.naturalWidth >= 64;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
}

function drawSegments(canvas, labels, palette) {
  const { width, height } = canvas;
  const index = enlarge(labels, width, height);
  const edges = findEdges(index, width, height, 1);
  paint(canvas, (i) => (edges[i] || index[i] === IGNORED ? WHITE : palette[index[i]]));
}

// Segments are outlined within, in their color; true objects in white above.
function drawOutlines(canvas, labels, trueLabels, palette) {
  const { width, height } = canvas;
  const index = enlarge(labels, width, height);
  const objects = findEdges(enlarge(trueLabels, width, height), width, height, 1);
  const inner = findEdges(index, width, height, 3), outer = findEdges(index, width, height, 6);
  paint(canvas, (i) => {
    if (objects[i]) return WHITE;
    return index[i] && (inner[i] || outer[i]) ? palette[index[i]] : undefined;
  });
}

function add(parent, name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

// Draws the curves of a setting's models and a point on the chosen one.
function drawCurve(svg, content, setting, chosen, place) {
  svg.replaceChildren();
  const { slots, variants } = content;
  const left = 34, right = 350, top = 12, bottom = 200;
  const values = setting.models.flatMap((model) => model.curve);
  const low = Math.floor(Math.min(...values) * 10 - 0.2) / 10;
  const high = Math.ceil(Math.max(...values) * 10 + 0.2) / 10;
  const first = slots[0], last = slots[slots.length - 1];
  const x = (k) => left + 8 + ((right - left - 16) * (k - first)) / (last - first || 1);
  const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
  const step = high - low > 0.65 ? 2 : 1;
  for (let tenth = Math.round(low * 10); tenth <= Math.round(high * 10); tenth += step) {
    add(svg, "path", { class: "grid", d: `M${left} ${y(tenth / 10)}H${right}` });
    const mark = { x: left - 6, y: y(tenth / 10) + 4, "text-anchor": "end" };
    add(svg, "text", mark, (tenth / 10).toFixed(1));
  }
  for (const k of slots) {
    add(svg, "text", { x: x(k), y: bottom + 14, "text-anchor": "middle" }, k);
  }
  const middle = { x: (left + right) / 2, y: bottom + 28, "text-anchor": "middle" };
  add(svg, "text", middle, "number of slots");
  const trained = setting.trained_with;
  if (trained >= first && trained <= last) {
    add(svg, "path", { class: "trained", d: `M${x(trained)} ${top}V${bottom}` });
  }
  const line = (model) =>
    "M" + model.curve.map((value, i) => `${x(slots[i])} ${y(value)}`).join("L");
  const style = (model) => `line-${variants.indexOf(model.name)}`;
  for (const model of setting.models) {
    const selected = model === chosen ? " chosen" : "";
    add(svg, "path", { class: style(model) + selected, d: line(model) });
  }
  const value = chosen.curve[place];
  const at = { cx: x(slots[place]), cy: y(value) };
  add(svg, "circle", { class: style(chosen), r: 6, ...at });
  const label = `${chosen.name}, ${slots[place]} slots: ${value.toFixed(3)}`;
  svg.setAttribute("aria-label", `${content.kinds[0]} against the number of slots; ${label}`);
}

function start(root) {
  const content = JSON.parse(root.querySelector("script").textContent);
  const { scenes, slots, kinds } = content;
  // Opaque pixels: bytes in the order red, green, blue, alpha on little-endian machines.
  const palette = content.colors.map((color) => {
    const [red, green, blue] = color.slice(1).match(/../g);
    return parseInt(`ff${blue}${green}${red}`, 16);
  });
  const form = root.querySelector("form");
  const slider = root.querySelector("input[type=range]");
  const images = [...root.querySelectorAll(".scenes img")];
  const canvases = [...root.querySelectorAll("canvas")];
  const values = [...root.querySelectorAll("dd")];
  const ticks = [...root.querySelectorAll(".ticks span")];
  const checked = (name) => form.querySelector(`input[name$="-${name}"]:checked`)?.value;
  const choices = [...form.querySelectorAll("input[name$=-variant]")];
  let newest = 0; // counts choices: drawing waits for pictures to be decoded

  async function show() {
    const turn = ++newest;
    const setting = content.settings[checked("setting") ?? Object.keys(content.settings)[0]];
    for (const input of choices) {
      input.disabled = !setting.models.some((model) => model.name === input.value);
    }
    const choice = choices.find((input) => input.checked && !input.disabled)
      ?? choices.find((input) => !input.disabled);
    choice.checked = true;
    const model = setting.models.find((one) => one.name === choice.value);
    const scene = Number(checked("scene")), place = Number(slider.value);
    const labels = await readLabels(model.labels[place][scene]);
    const trueLabels = await readLabels(scenes[scene].labels);
    await images[scene].decode();
    // Another choice was made meanwhile.
    if (turn !== newest) return;

    const [image, objects, segments, outlines] = canvases;
    for (const canvas of canvases) drawImage(canvas, images[scene]);
    drawSegments(objects, trueLabels, palette);
    drawSegments(segments, labels, palette);
    drawOutlines(outlines, labels, trueLabels, palette);

    const count = `${slots[place]} slots`;
    const measured = model.values[place][scene];
    const used = measured[kinds.length];
    kinds.forEach((_, i) => { values[i].textContent = measured[i].toFixed(3); });
    values[kinds.length].textContent = `${used} of ${slots[place]}`;
    values[kinds.length + 1].textContent = scenes[scene].objects;
    image.setAttribute("aria-label", images[scene].alt);
    objects.setAttribute("aria-label", `True objects of scene ${scene + 1}`);
    segments.setAttribute("aria-label", `Segments of ${model.name} with ${count}, ${used} used`);
    outlines.setAttribute("aria-label", "Outlines of the segments and, in white, of true objects");
    form.querySelector("output").textContent = slots[place];
    slider.setAttribute("aria-valuetext", count);
    ticks.forEach((tick, i) => tick.classList.toggle("chosen", i === place));
    drawCurve(root.querySelector(".curve svg"), content, setting, model, place);
  }

  const [first] = Object.values(content.settings);
  slider.value = slots.findIndex((k) => k >= first.trained_with);
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  root.hidden = false;
  show();
}

document.querySelectorAll(".explorer").forEach(start);
