"use strict";
// The slice viewers and the downloads. All data are in the page.
const data = JSON.parse(document.getElementById("data").textContent);

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

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

function overlayElement(className, names, sources, kind) {
  const overlay = document.createElement("div");
  overlay.className = className;
  overlay.append(...names.map((name) => imageElement(sources[name], `${name}, ${kind}`)));
  return overlay;
}

function sliceText(slice, labeled) {
  const name = slice.name ? `, ${slice.name}` : "";
  const structures = Object.keys(labeled).filter((structure) => labeled[structure].includes(slice.z));
  const byHand = structures.length ? `, labeled by hand: ${structures.join(", ")}` : "";
  return `z ${slice.z}${name}${byHand}`;
}

function startSliceViewer(viewer) {
  const sample = data.samples[Number(viewer.dataset.sample)];
  const slider = viewer.querySelector(".slider");
  const checkboxes = [...viewer.querySelectorAll("input.layer")];

  const showKind = (slice, kind, sources) => {
    const stack = viewer.querySelector(`.stack.${kind}`);
    if (!stack) return;
    const shown = checkboxes.filter((box) => box.checked && sources[box.value]).map((box) => box.value);
    // Structures are opaque among themselves and transparent together; edges of boxes are always opaque.
    const boxes = shown.filter((name) => name.endsWith(", boxes"));
    const areas = shown.filter((name) => !name.endsWith(", boxes"));
    stack.replaceChildren(
      imageElement(slice.image, `slice ${slice.z}`),
      overlayElement("areas", areas, sources, kind),
      overlayElement("edges", boxes, sources, kind),
    );
  };

  const show = () => {
    const slice = sample.slices[Number(slider.value)];
    viewer.querySelector("output").textContent = sliceText(slice, sample.labeled);
    const [fraction, length] = slice.bar; // the images of a montage may differ in size
    viewer.querySelectorAll(".bar").forEach((bar) => (bar.style.width = `${(100 * fraction).toFixed(2)}%`));
    viewer.querySelectorAll(".length").forEach((text) => (text.textContent = length));
    showKind(slice, "image-only", {});
    showKind(slice, "predicted", slice.predicted);
    showKind(slice, "truth", slice.truth);
    const note = viewer.querySelector(".missing-truth");
    if (note) note.textContent = Object.keys(slice.truth).length ? "" : " (none for this slice)";
  };

  slider.addEventListener("input", show);
  checkboxes.forEach((box) => box.addEventListener("change", show));
  viewer.querySelector(".opacity").addEventListener("input", (event) => {
    viewer.style.setProperty("--opacity", event.target.value / 100);
  });
  show();
}

for (const button of document.querySelectorAll("button.download")) {
  button.addEventListener("click", () => download(button));
}
document.querySelectorAll(".slice-viewer").forEach(startSliceViewer);
