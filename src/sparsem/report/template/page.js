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

async function numbersOf(source) {
  source.decoded ??= decodeNumbers(source.numbers, Uint32Array, 4);
  return source.decoded;
}

async function canvasElement(source, description, sample, structure, ownColors) {
  const canvas = document.createElement("canvas");
  canvas.width = source.width;
  canvas.height = source.height;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", description);
  const color = (data.samples[sample].objects[structure] || {}).color;
  paintNumbers(canvas, await numbersOf(source), sample, structure, color, ownColors);
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

  const layerElement = (name, source, kind) => {
    const description = `${name}, ${kind}`;
    return typeof source === "string" ? imageElement(source, description) : canvasElement(source, description, index, name, ownColors && ownColors.checked);
  };

  const showKind = async (slice, kind, sources) => {
    const stack = viewer.querySelector(`.stack.${kind}`);
    if (!stack) return;
    // Structures are opaque among themselves and transparent together; edges of boxes are always opaque.
    const isBox = (name) => name.endsWith(", boxes");
    const elements = (names) => Promise.all(names.map((name) => layerElement(name, sources[name], kind)));
    const shown = isOn(sources);
    const areas = await elements(shown.filter((name) => !isBox(name)));
    const edges = await elements(shown.filter(isBox));
    if (slice !== sample.slices[Number(slider.value)]) return; // another slice was chosen meanwhile
    stack.replaceChildren(imageElement(slice.image, `slice ${slice.z}`), overlayElement("areas", areas), overlayElement("edges", edges));
  };

  const show = () => {
    const slice = sample.slices[Number(slider.value)];
    viewer.querySelector("output").textContent = sliceText(slice, sample.labeled);
    const [fraction, length] = slice.bar; // the images of a montage may differ in size
    viewer.querySelectorAll(".bar").forEach((bar) => (bar.style.width = `${(100 * fraction).toFixed(2)}%`));
    viewer.querySelectorAll(".length").forEach((text) => (text.textContent = length));
    const note = viewer.querySelector(".missing-truth");
    if (note) note.textContent = Object.keys(slice.truth).length ? "" : " (none for this slice)";
    return Promise.all([
      showKind(slice, "image-only", {}),
      showKind(slice, "predicted", slice.predicted),
      showKind(slice, "truth", slice.truth),
    ]);
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
