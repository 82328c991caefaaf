"use strict";
// Objects by their numbers: their colors, the object that is selected, and its rows of the tables.
const data = JSON.parse(document.getElementById("data").textContent);
const MAX_ROWS = 20; // of one table
const SELECTED = [255, 255, 255];
const selection = { sample: -1, structure: "", number: 0 };
const selectionListeners = [];

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Numbers are compressed byte by byte: first the lowest bytes of all numbers, then the next ones.
async function decodeNumbers(text, ArrayType, nBytes) {
  const planes = await inflate(text);
  const count = planes.length / nBytes;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < nBytes; plane++) {
    for (let i = 0; i < count; i++) bytes[i * nBytes + plane] = planes[plane * count + i];
  }
  return new ArrayType(bytes.buffer);
}

function objectColor(structureColor, number, ownColors) {
  return structureColor && !(ownColors && number) ? structureColor : data.colors[number % data.colors.length];
}

function isSelected(sample, structure, number) {
  return selection.sample === sample && selection.structure === structure && selection.number === number;
}

function select(sample, structure, number) {
  Object.assign(selection, { sample, structure, number });
  selectionListeners.forEach((listener) => listener());
  document.querySelectorAll(".object-rows").forEach(showRows);
}

// Pixels of an object, and of its outline, as the bytes of a picture in one number.
function pixelColors(sample, structure, number, structureColor, ownColors) {
  const color = isSelected(sample, structure, number) ? SELECTED : objectColor(structureColor, number, ownColors);
  const isDark = Math.max(...color) <= 60;
  const outline = color.map((part) => (isDark ? 110 : Math.round(0.4 * part)));
  const packed = ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red;
  return [packed(color), packed(outline)];
}

// Draw the numbers of a slice: every object with an outline, the selected one white.
function paintNumbers(canvas, numbers, sample, structure, structureColor, ownColors) {
  const { width, height } = canvas;
  const image = new ImageData(width, height);
  const pixels = new Int32Array(image.data.buffer);
  const colors = new Map();
  let previous = 0, inside = 0, outline = 0;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const number = numbers[i];
      if (!number) continue;
      if (number !== previous) {
        if (!colors.has(number)) colors.set(number, pixelColors(sample, structure, number, structureColor, ownColors));
        [inside, outline] = colors.get(number);
        previous = number;
      }
      const atEdge = (x > 0 && numbers[i - 1] !== number) || (x < width - 1 && numbers[i + 1] !== number) || (y > 0 && numbers[i - width] !== number) || (y < height - 1 && numbers[i + width] !== number);
      pixels[i] = atEdge ? outline : inside;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Rows of a CSV file as objects; texts are quoted, quotes in them are doubled.
function parseCsv(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
    rows[rows.length - 1].push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  const [names, ...contents] = rows.filter((row) => row.length > 1 || row[0]);
  return contents.map((row) => Object.fromEntries(names.map((name, k) => [name, row[k]])));
}

const tables = new Map();
async function readTable(sample, name) {
  const button = [...document.querySelectorAll("button.download[data-table]")].find((one) => one.dataset.sample === sample && one.dataset.table === name);
  if (!button) return null;
  if (!tables.has(button)) tables.set(button, parseCsv(new TextDecoder().decode(await inflate(button.dataset.content))));
  return tables.get(button);
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function rowElement(row) {
  const list = element("dl", "", "row");
  for (const [name, value] of Object.entries(row)) {
    if (value === "" || value === undefined) continue;
    const pair = element("div");
    pair.append(element("dt", name), element("dd", value));
    list.append(pair);
  }
  return list;
}

function rowsTable(rows) {
  const table = element("table");
  const head = table.createTHead().insertRow();
  Object.keys(rows[0]).forEach((name) => head.append(element("th", name)));
  const body = table.createTBody();
  for (const row of rows.slice(0, MAX_ROWS)) {
    const line = body.insertRow();
    Object.values(row).forEach((value) => line.append(element("td", value)));
  }
  return table;
}

async function showRows(panel) {
  const sample = Number(panel.dataset.sample);
  if (selection.sample !== sample || !selection.number) return panel.replaceChildren();
  const { structure, number } = selection;
  const { name, objects } = data.samples[sample];
  const contents = [element("h4", `${structure} ${number}`)];
  for (const { table, columns, only } of objects[structure].tables) {
    const all = await readTable(name, table);
    if (!all) {
      contents.push(element("p", `${table} is too large for this page; see tables/${table}.csv in the sample.`, "hint"));
      continue;
    }
    const belongs = (row) => columns.some((column) => row[column] === String(number)) && Object.entries(only).every(([column, value]) => row[column] === value);
    const rows = all.filter(belongs);
    if (rows.length === 1) contents.push(element("h5", table), rowElement(rows[0]));
    else if (rows.length) contents.push(element("h5", `${table}, ${Math.min(rows.length, MAX_ROWS)} of ${rows.length} rows`), rowsTable(rows));
  }
  if (contents.length === 1) contents.push(element("p", "No table has a row of it; run 'sparsem measure'.", "hint"));
  if (structure === selection.structure && number === selection.number) panel.replaceChildren(...contents);
}
