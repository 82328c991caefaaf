"use strict";
// A small WebGL 2 viewer: meshes with one light at the eye, inner ones first, then those that can be seen through.
const VERTEX = `#version 300 es
in vec3 place; in vec3 normal; uniform mat4 view; uniform mat4 lens; out vec3 facing; out vec3 seen;
void main() { vec4 at = view * vec4(place, 1.0); facing = mat3(view) * normal; seen = at.xyz; gl_Position = lens * at; }`;
const FRAGMENT = `#version 300 es
precision highp float; in vec3 facing; in vec3 seen; uniform vec4 color; out vec4 pixel;
void main() {
  float light = abs(dot(normalize(facing), normalize(-seen)));
  float rim = color.a < 1.0 ? mix(2.2, 0.8, light) : 1.0;
  pixel = vec4(color.rgb * (0.30 + 0.70 * light) + 0.10 * pow(light, 24.0), clamp(color.a * rim, 0.0, 1.0));
}`;
const turn = { yaw: 0.6, pitch: -0.5, away: 1.9, x: 0, y: 0 }; // one for all scenes: samples are compared from the same side
const scenes = [];
let asked = false;

function drawSoon() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; scenes.forEach((one) => one.draw()); });
}

async function numbers(text, kind, size) {
  const planes = await inflated(text), count = planes.length / size;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < size; plane++) for (let i = 0; i < count; i++) bytes[i * size + plane] = planes[plane * count + i];
  return new kind(bytes.buffer);
}

function normalsOf(vertices, triangles) {
  const out = new Float32Array(vertices.length);
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
    const ux = vertices[b] - vertices[a], uy = vertices[b + 1] - vertices[a + 1], uz = vertices[b + 2] - vertices[a + 2];
    const vx = vertices[c] - vertices[a], vy = vertices[c + 1] - vertices[a + 1], vz = vertices[c + 2] - vertices[a + 2];
    const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
    for (const at of [a, b, c]) { out[at] += nx; out[at + 1] += ny; out[at + 2] += nz; }
  }
  return out;
}

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

function buffered(gl, uses, part, vertices, triangles) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  for (const [name, values] of [["place", vertices], ["normal", normalsOf(vertices, triangles)]]) {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const at = gl.getAttribLocation(uses, name);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 0, 0);
  }
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
  return { array, count: triangles.length, color: part.color.map((one) => one / 255) };
}

function matrices(aspect) {
  const [cy, sy, cp, sp] = [Math.cos(turn.yaw), Math.sin(turn.yaw), Math.cos(turn.pitch), Math.sin(turn.pitch)];
  // y points down and z away from the first slice, as in the stack: the scene is turned over so that slices are seen as they lie.
  const view = [cy, sp * sy, -cp * sy, 0, 0, -cp, -sp, 0, -sy, sp * cy, -cp * cy, 0, turn.x, turn.y, -turn.away, 1];
  const near = 0.05, far = 20, focus = 1 / Math.tan(0.35);
  const lens = [focus / aspect, 0, 0, 0, 0, focus, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0];
  return [view, lens];
}

async function begin(box) {
  const sample = data.samples[Number(box.dataset.sample)];
  const canvas = box.querySelector("canvas");
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  const scale = box.querySelector(".scale");
  if (!gl) { scale.textContent = "This browser draws no 3D (WebGL 2 is missing)."; return; }
  const uses = program(gl);
  const at = (name) => gl.getUniformLocation(uses, name);
  const places = { view: at("view"), lens: at("lens"), color: at("color") };
  const edge = Math.max(...sample.scene.size);
  const middle = sample.scene.size.map((one) => one / edge / 2).reverse(); // x, y, z
  const structures = [];
  for (const structure of sample.scene.structures) {
    const parts = [];
    for (const part of structure.parts) {
      const steps = await numbers(part.vertices, Uint16Array, 2), triangles = await numbers(part.triangles, Uint32Array, 4);
      const vertices = Float32Array.from(steps, (step, i) => step / 65535 - middle[i % 3]);
      parts.push(buffered(gl, uses, part, vertices, triangles));
    }
    structures.push({ name: structure.name, glass: structure.glass, parts });
  }
  const boxes = [...box.querySelectorAll("input.layer")], glass = box.querySelector(".glass");
  const [z, y, x] = sample.scene.size;
  scale.textContent = `The stack is ${x.toPrecision(3)} × ${y.toPrecision(3)} × ${z.toPrecision(3)} µm (x y z).`;

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.42, 0.46, 0.51, 1); // white and black organelles are both seen on it
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(uses);
    const [view, lens] = matrices(width / height);
    gl.uniformMatrix4fv(places.view, false, view);
    gl.uniformMatrix4fv(places.lens, false, lens);
    const on = new Set(boxes.filter((one) => one.checked).map((one) => one.value));
    const opacity = Number(glass.value) / 100;
    // The innermost are drawn first; what lies around them is laid over, the outermost last.
    for (const glass of [0, 1, 2]) {
      const alpha = glass ? Math.pow(opacity, glass / 2) : 1;
      gl.depthMask(alpha === 1);
      gl.enable(gl.POLYGON_OFFSET_FILL); // where the border of the stack cuts both, the inner one is seen
      gl.polygonOffset(glass, 4 * glass);
      if (alpha < 1) { gl.enable(gl.BLEND); gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA); } else gl.disable(gl.BLEND);
      for (const structure of structures) {
        if (structure.glass !== glass || !on.has(structure.name)) continue;
        for (const part of structure.parts) {
          gl.uniform4f(places.color, ...part.color, alpha);
          gl.bindVertexArray(part.array);
          gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
        }
      }
    }
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
  };
  scenes.push({ draw });
  boxes.forEach((one) => one.addEventListener("change", drawSoon));
  glass.addEventListener("input", drawSoon);
  listen(canvas);
  drawSoon();
}

function listen(canvas) {
  const held = new Map();
  const nearer = (factor) => { turn.away = Math.min(8, Math.max(0.4, turn.away * factor)); };
  canvas.addEventListener("pointerdown", (event) => { held.set(event.pointerId, event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", (event) => held.delete(event.pointerId));
  canvas.addEventListener("pointercancel", (event) => held.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (held.size > 1) {
      const other = [...held.values()].find((one) => one.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      nearer(apart(before) / Math.max(1, apart(event)));
    } else if (event.shiftKey) {
      turn.x += dx / canvas.clientHeight; turn.y -= dy / canvas.clientHeight;
    } else {
      turn.yaw += dx * 0.008; turn.pitch = Math.min(1.57, Math.max(-1.57, turn.pitch + dy * 0.008));
    }
    held.set(event.pointerId, event);
    drawSoon();
  });
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); nearer(Math.exp(event.deltaY * 0.001)); drawSoon(); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const keys = { ArrowLeft: () => { turn.yaw -= 0.1; }, ArrowRight: () => { turn.yaw += 0.1; }, ArrowUp: () => { turn.pitch -= 0.1; }, ArrowDown: () => { turn.pitch += 0.1; }, "+": () => nearer(0.9), "-": () => nearer(1.1) };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    drawSoon();
  });
}

window.addEventListener("resize", drawSoon);
document.querySelectorAll(".scene").forEach(begin);
