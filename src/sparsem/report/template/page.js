"use strict";
// Slices to leaf through, and downloads. Everything lies in the page.
const data = JSON.parse(document.getElementById("data").textContent);

async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

for (const button of document.querySelectorAll("button.download")) {
  button.addEventListener("click", async () => {
    const content = await inflated(button.dataset.content);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
    link.download = button.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

for (const leaf of document.querySelectorAll(".leaf")) {
  const sample = data.samples[Number(leaf.dataset.sample)];
  const slider = leaf.querySelector(".slider");
  const boxes = [...leaf.querySelectorAll("input.layer")];
  const picture = (source, name) => {
    const image = document.createElement("img");
    image.src = source;
    image.alt = name;
    return image;
  };
  const show = () => {
    const slice = sample.slices[Number(slider.value)];
    const by = Object.entries(sample.labeled).filter(([, z]) => z.includes(slice.z)).map(([name]) => name);
    const called = slice.name ? `, ${slice.name}` : "";
    leaf.querySelector("output").textContent = `z ${slice.z}${called}` + (by.length ? `, labeled by hand: ${by.join(", ")}` : "");
    const [part, length] = slice.bar; // pictures may differ in their size
    leaf.querySelectorAll(".bar").forEach((bar) => (bar.style.width = `${(100 * part).toFixed(2)}%`));
    leaf.querySelectorAll(".length").forEach((words) => (words.textContent = length));
    for (const [kind, layers] of [["plain", {}], ["found", slice.found], ["truth", slice.truth]]) {
      const stack = leaf.querySelector(`.stack.${kind}`);
      if (!stack) continue;
      const on = boxes.filter((box) => box.checked && layers[box.value]);
      const laid = (name, chosen) => {
        const over = document.createElement("div");
        over.className = name;
        over.append(...chosen.map((box) => picture(layers[box.value], `${box.value}, ${kind}`)));
        return over;
      };
      // Structures cover each other, and all of them together let the image through; edges of boxes hide nothing.
      const [areas, edges] = [false, true].map((edge) => on.filter((box) => box.value.endsWith(", boxes") === edge));
      const note = leaf.querySelector(".unlabeled");
      if (kind === "truth") note.textContent = Object.keys(layers).length ? "" : " (this slice has none)";
      stack.replaceChildren(picture(slice.image, `slice ${slice.z}`), laid("over", areas), laid("edges", edges));
    }
  };
  slider.addEventListener("input", show);
  boxes.forEach((box) => box.addEventListener("change", show));
  leaf.querySelector(".opacity").addEventListener("input", (event) => leaf.style.setProperty("--opacity", event.target.value / 100));
  show();
}
