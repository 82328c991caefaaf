"use strict";
// A small WebGL 2 viewer: meshes with one light at the camera, opaque ones first, then transparent ones.
const VERTEX_SHADER = `#version 300 es
in vec3 position; in vec3 normal; uniform mat4 view; uniform mat4 projection; out vec3 viewNormal; out vec3 viewPosition;
void main() {
  vec4 inView = view * vec4(position, 1.0);
  viewNormal = mat3(view) * normal;
  viewPosition = inView.xyz;
  gl_Position = projection * inView;
}`;
const FRAGMENT_SHADER = `#version 300 es
precision highp float; in vec3 viewNormal; in vec3 viewPosition; uniform vec4 color; uniform bool plain; out vec4 pixel;
void main() {
  if (plain) { pixel = color; return; }
  float light = abs(dot(normalize(viewNormal), normalize(-viewPosition)));
  float rim = color.a < 1.0 ? mix(2.2, 0.8, light) : 1.0;
  pixel = vec4(color.rgb * (0.30 + 0.70 * light) + 0.10 * pow(light, 24.0), clamp(color.a * rim, 0.0, 1.0));
}`;
const camera = { yaw: 0.6, pitch: -0.5, distance: 1.9, x: 0, y: 0 }; // shared: samples are compared from the same side
const scenes = [];
let isDrawRequested = false;

function requestDraw() {
  if (isDrawRequested) return;
  isDrawRequested = true;
  requestAnimationFrame(() => {
    isDrawRequested = false;
    scenes.forEach((scene) => scene.draw());
  });
}

function vertexNormals(vertices, triangles) {
  const normals = new Float32Array(vertices.length);
  for (let t = 0; t < triangles.length; t += 3) {
    const [a, b, c] = [3 * triangles[t], 3 * triangles[t + 1], 3 * triangles[t + 2]];
    const ux = vertices[b] - vertices[a], uy = vertices[b + 1] - vertices[a + 1], uz = vertices[b + 2] - vertices[a + 2];
    const vx = vertices[c] - vertices[a], vy = vertices[c + 1] - vertices[a + 1], vz = vertices[c + 2] - vertices[a + 2];
    const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
    for (const vertex of [a, b, c]) { normals[vertex] += nx; normals[vertex + 1] += ny; normals[vertex + 2] += nz; }
  }
  return normals;
}

function linkProgram(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX_SHADER], [gl.FRAGMENT_SHADER, FRAGMENT_SHADER]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

function uploadArray(gl, program, name, values) {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  const location = gl.getAttribLocation(program, name);
  gl.enableVertexAttribArray(location);
  gl.vertexAttribPointer(location, 3, gl.FLOAT, false, 0, 0);
}

// Triangles, or lines, which have no normals.
function uploadShape(gl, program, vertices, indices, hasNormals) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  uploadArray(gl, program, "position", vertices);
  if (hasNormals) uploadArray(gl, program, "normal", vertexNormals(vertices, indices));
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indices, gl.STATIC_DRAW);
  return { array, count: indices.length };
}

async function uploadStructures(gl, program, scene) {
  const edge = Math.max(...scene.size);
  const middle = scene.size.map((length) => length / edge / 2).reverse(); // x, y, z
  const verticesOf = async (text) => Float32Array.from(await decodeNumbers(text, Uint16Array, 2), (step, i) => step / 65535 - middle[i % 3]);
  const structures = [];
  for (const structure of scene.structures) {
    const parts = [];
    for (const part of structure.parts) {
      const triangles = await decodeNumbers(part.triangles, Uint32Array, 4);
      parts.push({ number: part.number, ...uploadShape(gl, program, await verticesOf(part.vertices), triangles, true) });
    }
    const lines = structure.skeletons;
    const skeletons = lines && uploadShape(gl, program, await verticesOf(lines.vertices), await decodeNumbers(lines.ends, Uint32Array, 4), false);
    structures.push({ name: structure.name, color: structure.color, transparency: structure.transparency, parts, skeletons });
  }
  return structures;
}

function viewMatrix() {
  const cy = Math.cos(camera.yaw), sy = Math.sin(camera.yaw);
  const cp = Math.cos(camera.pitch), sp = Math.sin(camera.pitch);
  // In the stack y points down and z away from the first slice: the scene is turned over, so that slices look as in the stack.
  return [cy, sp * sy, -cp * sy, 0, 0, -cp, -sp, 0, -sy, sp * cy, -cp * cy, 0, camera.x, camera.y, -camera.distance, 1];
}

function projectionMatrix(aspect) {
  const near = 0.05, far = 20, focus = 1 / Math.tan(0.35);
  return [focus / aspect, 0, 0, 0, 0, focus, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0];
}

function prepareFrame(gl, canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  gl.viewport(0, 0, width, height);
  gl.clearColor(0.42, 0.46, 0.51, 1); // both white and black organelles are visible on it
  gl.depthMask(true);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.enable(gl.DEPTH_TEST);
  return width / height;
}

// Opaque structures are drawn first; what lies around them is drawn over them, the outermost last.
// Around a selected object, all others are faint.
function drawStructures(gl, locations, structures, view) {
  const hasSelection = selection.sample === view.sample && selection.number > 0;
  gl.uniform1i(locations.plain, 0);
  const drawPart = (structure, part, alpha) => {
    const color = objectColor(structure.color, part.number, view.ownColors).map((value) => value / 255);
    gl.depthMask(alpha === 1);
    if (alpha < 1) { gl.enable(gl.BLEND); gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA); } else gl.disable(gl.BLEND);
    gl.uniform4f(locations.color, ...color, alpha);
    gl.bindVertexArray(part.array);
    gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
  };
  const shown = structures.filter((structure) => view.shownNames.has(structure.name));
  const selects = (structure, part) => hasSelection && isSelected(view.sample, structure.name, part.number);
  for (const structure of shown) {
    for (const part of structure.parts) if (selects(structure, part)) drawPart(structure, part, 1);
  }
  for (const transparency of [0, 1, 2]) {
    const alpha = transparency ? Math.pow(view.outerOpacity, transparency / 2) : 1;
    gl.enable(gl.POLYGON_OFFSET_FILL); // where the border of the stack cuts both, the inner one is visible
    gl.polygonOffset(transparency, 4 * transparency);
    for (const structure of shown.filter((one) => one.transparency === transparency)) {
      for (const part of structure.parts) if (!selects(structure, part)) drawPart(structure, part, hasSelection ? 0.12 * alpha : alpha);
    }
  }
  if (view.skeletons) drawSkeletons(gl, locations, shown);
}

// Lines over everything, as they lie inside of objects.
function drawSkeletons(gl, locations, structures) {
  gl.disable(gl.DEPTH_TEST);
  gl.disable(gl.BLEND);
  gl.uniform1i(locations.plain, 1);
  gl.uniform4f(locations.color, 0.05, 0.07, 0.1, 1);
  for (const { skeletons } of structures) {
    if (!skeletons) continue;
    gl.bindVertexArray(skeletons.array);
    gl.drawElements(gl.LINES, skeletons.count, gl.UNSIGNED_INT, 0);
  }
}

// A picture of its own, whose edges are not smoothed, so that the color of a pixel names one object.
function createHiddenPicture(gl, width, height) {
  const framebuffer = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
  const buffers = [[gl.RGBA8, gl.COLOR_ATTACHMENT0], [gl.DEPTH_COMPONENT16, gl.DEPTH_ATTACHMENT]].map(([format, attachment]) => {
    const buffer = gl.createRenderbuffer();
    gl.bindRenderbuffer(gl.RENDERBUFFER, buffer);
    gl.renderbufferStorage(gl.RENDERBUFFER, format, width, height);
    gl.framebufferRenderbuffer(gl.FRAMEBUFFER, attachment, gl.RENDERBUFFER, buffer);
    return buffer;
  });
  return () => { gl.deleteFramebuffer(framebuffer); buffers.forEach((buffer) => gl.deleteRenderbuffer(buffer)); };
}

// The object at a position of the canvas: every part is drawn in a color that is its index.
// Inner structures come before those around them, which are transparent.
function objectAt(gl, locations, structures, view, x, y) {
  const remove = createHiddenPicture(gl, gl.canvas.width, gl.canvas.height);
  const found = namedAt(gl, locations, structures, view, x, y);
  remove(); // the canvas is drawn to again
  return found;
}

function namedAt(gl, locations, structures, view, x, y) {
  gl.uniform1i(locations.plain, 1);
  gl.disable(gl.BLEND);
  gl.depthMask(true);
  const pixel = new Uint8Array(4);
  for (const transparency of [0, 1, 2]) {
    const parts = [];
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    for (const structure of structures) {
      if (structure.transparency !== transparency || !view.shownNames.has(structure.name)) continue;
      for (const part of structure.parts) {
        parts.push([structure.name, part.number]);
        const index = parts.length;
        gl.uniform4f(locations.color, (index & 255) / 255, ((index >> 8) & 255) / 255, (index >> 16) / 255, 1);
        gl.bindVertexArray(part.array);
        gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
      }
    }
    gl.readPixels(x, y, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    const found = parts[(pixel[0] | (pixel[1] << 8) | (pixel[2] << 16)) - 1];
    if (found && found[1]) return found;
  }
  return ["", 0];
}

async function startScene(element) {
  const sample = Number(element.dataset.sample);
  const scene = data.samples[sample].scene;
  const canvas = element.querySelector("canvas");
  const scale = element.querySelector(".scale");
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) { scale.textContent = "This browser cannot show the 3D scene: WebGL 2 is not available."; return; }
  const program = linkProgram(gl);
  const locations = Object.fromEntries(["view", "projection", "color", "plain"].map((name) => [name, gl.getUniformLocation(program, name)]));
  const structures = await uploadStructures(gl, program, scene);
  const inputs = [...element.querySelectorAll("input")];
  const isChecked = (name) => inputs.some((input) => input.classList.contains(name) && input.checked);
  const [z, y, x] = scene.size;
  scale.textContent = `The stack is ${x.toPrecision(3)} × ${y.toPrecision(3)} × ${z.toPrecision(3)} µm (x y z).`;

  const prepare = () => {
    const aspect = prepareFrame(gl, canvas);
    gl.useProgram(program);
    gl.uniformMatrix4fv(locations.view, false, viewMatrix());
    gl.uniformMatrix4fv(locations.projection, false, projectionMatrix(aspect));
    return {
      sample,
      shownNames: new Set(inputs.filter((input) => input.classList.contains("layer") && input.checked).map((input) => input.value)),
      outerOpacity: Number(element.querySelector(".outer-opacity").value) / 100,
      ownColors: isChecked("own-colors"),
      skeletons: isChecked("skeletons"),
    };
  };
  const draw = () => {
    drawStructures(gl, locations, structures, prepare());
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
  };
  const selectAt = (clientX, clientY) => {
    const frame = canvas.getBoundingClientRect();
    const view = prepare();
    const [across, down] = [(clientX - frame.left) / frame.width, (clientY - frame.top) / frame.height];
    const found = objectAt(gl, locations, structures, view, Math.floor(across * canvas.width), Math.floor((1 - down) * canvas.height));
    select(sample, ...found); // which draws the scene again
  };
  scenes.push({ draw });
  inputs.forEach((input) => input.addEventListener("input", requestDraw));
  selectionListeners.push(requestDraw);
  listen(canvas, selectAt);
  requestDraw();
}

function rotate(yaw, pitch) {
  camera.yaw += yaw;
  camera.pitch = Math.min(1.57, Math.max(-1.57, camera.pitch + pitch));
}

function zoom(factor) {
  camera.distance = Math.min(8, Math.max(0.4, camera.distance * factor));
}

function listen(canvas, selectAt) {
  const pointers = new Map();
  let pressed = null;
  canvas.addEventListener("pointerdown", (event) => {
    pressed = pointers.size || event.button ? null : event; // a second finger, or another button, selects nothing
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!pointers.delete(event.pointerId) || !pressed) return;
    const moved = Math.hypot(event.clientX - pressed.clientX, event.clientY - pressed.clientY);
    pressed = null;
    if (moved < 4) selectAt(event.clientX, event.clientY);
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    const previous = pointers.get(event.pointerId);
    if (!previous) return;
    const dx = event.clientX - previous.clientX, dy = event.clientY - previous.clientY;
    if (pointers.size > 1) {
      const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
      const distance = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
      zoom(distance(previous) / Math.max(1, distance(event)));
    } else if (event.shiftKey) {
      camera.x += dx / canvas.clientHeight;
      camera.y -= dy / canvas.clientHeight;
    } else {
      rotate(dx * 0.008, dy * 0.008);
    }
    pointers.set(event.pointerId, event);
    requestDraw();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY * 0.001));
    requestDraw();
  }, { passive: false });
  const actions = {
    ArrowLeft: () => { camera.yaw -= 0.1; },
    ArrowRight: () => { camera.yaw += 0.1; },
    ArrowUp: () => { camera.pitch -= 0.1; },
    ArrowDown: () => { camera.pitch += 0.1; },
    "+": () => zoom(0.9),
    "-": () => zoom(1.1),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
    requestDraw();
  });
}

window.addEventListener("resize", requestDraw);
document.querySelectorAll(".scene").forEach(startScene);
