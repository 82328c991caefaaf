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
precision highp float; in vec3 viewNormal; in vec3 viewPosition; uniform vec4 color; out vec4 pixel;
void main() {
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

function uploadMesh(gl, program, color, vertices, triangles) {
  const array = gl.createVertexArray();
  gl.bindVertexArray(array);
  for (const [name, values] of [["position", vertices], ["normal", vertexNormals(vertices, triangles)]]) {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const location = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribPointer(location, 3, gl.FLOAT, false, 0, 0);
  }
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, triangles, gl.STATIC_DRAW);
  return { array, count: triangles.length, color: color.map((part) => part / 255) };
}

async function uploadStructures(gl, program, scene) {
  const edge = Math.max(...scene.size);
  const middle = scene.size.map((length) => length / edge / 2).reverse(); // x, y, z
  const structures = [];
  for (const structure of scene.structures) {
    const parts = [];
    for (const part of structure.parts) {
      const steps = await decodeNumbers(part.vertices, Uint16Array, 2);
      const triangles = await decodeNumbers(part.triangles, Uint32Array, 4);
      const vertices = Float32Array.from(steps, (step, i) => step / 65535 - middle[i % 3]);
      parts.push(uploadMesh(gl, program, part.color, vertices, triangles));
    }
    structures.push({ name: structure.name, transparency: structure.transparency, parts });
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
function drawStructures(gl, structures, shownNames, colorLocation, outerOpacity) {
  for (const transparency of [0, 1, 2]) {
    const alpha = transparency ? Math.pow(outerOpacity, transparency / 2) : 1;
    gl.depthMask(alpha === 1);
    gl.enable(gl.POLYGON_OFFSET_FILL); // where the border of the stack cuts both, the inner one is visible
    gl.polygonOffset(transparency, 4 * transparency);
    if (alpha < 1) { gl.enable(gl.BLEND); gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA); } else gl.disable(gl.BLEND);
    for (const structure of structures) {
      if (structure.transparency !== transparency || !shownNames.has(structure.name)) continue;
      for (const part of structure.parts) {
        gl.uniform4f(colorLocation, ...part.color, alpha);
        gl.bindVertexArray(part.array);
        gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
      }
    }
  }
}

async function startScene(element) {
  const scene = data.samples[Number(element.dataset.sample)].scene;
  const canvas = element.querySelector("canvas");
  const scale = element.querySelector(".scale");
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) { scale.textContent = "This browser cannot show the 3D scene: WebGL 2 is not available."; return; }
  const program = linkProgram(gl);
  const [view, projection, color] = ["view", "projection", "color"].map((name) => gl.getUniformLocation(program, name));
  const structures = await uploadStructures(gl, program, scene);
  const checkboxes = [...element.querySelectorAll("input.layer")];
  const outerOpacity = element.querySelector(".outer-opacity");
  const [z, y, x] = scene.size;
  scale.textContent = `The stack is ${x.toPrecision(3)} × ${y.toPrecision(3)} × ${z.toPrecision(3)} µm (x y z).`;

  const draw = () => {
    const aspect = prepareFrame(gl, canvas);
    gl.useProgram(program);
    gl.uniformMatrix4fv(view, false, viewMatrix());
    gl.uniformMatrix4fv(projection, false, projectionMatrix(aspect));
    const shownNames = new Set(checkboxes.filter((box) => box.checked).map((box) => box.value));
    drawStructures(gl, structures, shownNames, color, Number(outerOpacity.value) / 100);
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
  };
  scenes.push({ draw });
  checkboxes.forEach((box) => box.addEventListener("change", requestDraw));
  outerOpacity.addEventListener("input", requestDraw);
  listen(canvas);
  requestDraw();
}

function rotate(yaw, pitch) {
  camera.yaw += yaw;
  camera.pitch = Math.min(1.57, Math.max(-1.57, camera.pitch + pitch));
}

function zoom(factor) {
  camera.distance = Math.min(8, Math.max(0.4, camera.distance * factor));
}

function listen(canvas) {
  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", (event) => pointers.delete(event.pointerId));
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
