"use strict";
// The slice viewers and the downloads. All data are in the page.
async function download(button) {
  const content = await inflate(button.dataset.content);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
  link.download = button.dataset.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function imageElement(source, description) {
  const image = document.createElement("img");
  image.src = source;
  image.alt = description;
  return image;
}

function overlayElement(className, elements) {
  const overlay = document.createElement("div");
  overlay.className = className;
  overlay.append(...elements);
  return overlay;
}

const MAX_DECODED = 12; // slices of structures that stay decoded: those that were shown last
const decodedSources = [];
async function numbersOf(source) {
  if (!source.decoded) {
    source.decoded = decodeNumbers(source.numbers, Uint32Array, 4);
    decodedSources.push(source);
    if (decodedSources.length > MAX_DECODED) delete decodedSources.shift().decoded;
  }
  return source.decoded;
}

function canvasElement(source, numbers, description, sample, structure, ownColors) {
  const canvas = document.createElement("canvas");
  canvas.width = source.width;
  canvas.height = source.height;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", description);
  const color = (data.samples[sample].objects[structure] || {}).color;
  paintNumbers(canvas, numbers, sample, structure, color, ownColors);
  return canvas;
}

function sliceText(slice, labeled) {
  const name = slice.name ? `, ${slice.name}` : "";
  const structures = Object.keys(labeled).filter((structure) => labeled[structure].includes(slice.z));
  const byHand = structures.length ? `, labeled by hand: ${structures.join(", ")}` : "";
  return `z ${slice.z}${name}${byHand}`;
}

function startSliceViewer(viewer) {
  const index = Number(viewer.dataset.sample);
  const sample = data.samples[index];
  const slider = viewer.querySelector(".slider");
  const checkboxes = [...viewer.querySelectorAll("input.layer")];
  const ownColors = viewer.querySelector(".own-colors");
  const isOn = (sources) => checkboxes.filter((box) => box.checked && sources[box.value]).map((box) => box.value);

  let request = 0; // of a picture; only the last one is shown

  const layerElement = (name, source, numbers, kind) => {
    const description = `${name}, ${kind}`;
    return numbers ? canvasElement(source, numbers, description, index, name, ownColors && ownColors.checked) : imageElement(source, description);
  };

  const showKind = async (slice, kind, sources, own) => {
    const stack = viewer.querySelector(`.stack.${kind}`);
    if (!stack) return;
    const shown = isOn(sources);
    const numbers = await Promise.all(shown.map((name) => (typeof sources[name] === "string" ? null : numbersOf(sources[name]))));
    if (own !== request) return; // another picture was requested meanwhile
    const elements = shown.map((name, k) => layerElement(name, sources[name], numbers[k], kind));
    // Structures are opaque among themselves and transparent together; edges of boxes are always opaque.
    const isBox = (_, k) => shown[k].endsWith(", boxes");
    const areas = elements.filter((element, k) => !isBox(element, k));
    stack.replaceChildren(imageElement(slice.image, `slice ${slice.z}`), overlayElement("areas", areas), overlayElement("edges", elements.filter(isBox)));
  };

  const show = () => {
    const slice = sample.slices[Number(slider.value)];
    viewer.querySelector("output").textContent = sliceText(slice, sample.labeled);
    const [fraction, length] = slice.bar; // the images of a montage may differ in size
    viewer.querySelectorAll(".bar").forEach((bar) => (bar.style.width = `${(100 * fraction).toFixed(2)}%`));
    viewer.querySelectorAll(".length").forEach((text) => (text.textContent = length));
    const note = viewer.querySelector(".missing-truth");
    if (note) note.textContent = Object.keys(slice.truth).length ? "" : " (none for this slice)";
    request += 1;
    showKind(slice, "image-only", {}, request);
    showKind(slice, "predicted", slice.predicted, request);
    showKind(slice, "truth", slice.truth, request);
  };

  // The object that is drawn last at a position, of those that are shown.
  const selectAt = async (event) => {
    const sources = sample.slices[Number(slider.value)].predicted;
    const frame = event.currentTarget.getBoundingClientRect();
    const [across, down] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    for (const name of isOn(sources).reverse()) {
      const source = sources[name];
      if (typeof source === "string") continue;
      const numbers = await numbersOf(source);
      const number = numbers[Math.floor(down * source.height) * source.width + Math.floor(across * source.width)];
      if (number) return select(index, name, number);
    }
    select(index, "", 0);
  };

  slider.addEventListener("input", show);
  checkboxes.forEach((box) => box.addEventListener("change", show));
  if (ownColors) ownColors.addEventListener("change", show);
  selectionListeners.push(show);
  viewer.querySelector(".stack.predicted").addEventListener("click", selectAt);
  viewer.querySelector(".opacity").addEventListener("input", (event) => {
    viewer.style.setProperty("--opacity", event.target.value / 100);
  });
  show();
}

for (const button of document.querySelectorAll("button.download")) {
  button.addEventListener("click", () => download(button));
}
for (const button of document.querySelectorAll("button.select")) {
  const { sample, structure, number } = button.dataset;
  button.addEventListener("click", () => {
    select(Number(sample), structure, Number(number));
    document.getElementById("scene").scrollIntoView();
  });
}
document.querySelectorAll(".slice-viewer").forEach(startSliceViewer);
