import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { readPhoto } from "./photo.js";
import { prepare } from "./preparation.js";

const $ = (id) => document.getElementById(id);
const TOP = 5;
const KEPT = 50; // photos in the list
let info, model, stream;
let waiting = [];
let busy = false;

async function start() {
  info = await (await fetch("classifier.json")).json();
  $("about").textContent =
    `Tells ${info.class_names.length} classes apart. Photos stay on this device.`;
  $("footer").textContent =
    `${info.backbone}, ${info.image_size} px, ${info.precision}` +
    (info.accuracy ? `, ${(100 * info.accuracy.top1).toFixed(1)} % right on ${info.accuracy.of}` : "") +
    (info.license ? `, ${info.license}` : "");
  const runtime = new URL("runtime/wasm/", location.href).href;
  // From the second visit on, when the service worker responds; without a network, only
  // if an earlier visit cached them.
  const threads = self.crossOriginIsolated === true &&
    await fetch(`${runtime}litert_wasm_threaded_internal.js`).then((found) => found.ok, () => false);
  await loadLiteRt(runtime, { threads });
  model = await loadAndCompile("model.tflite", { accelerator: "wasm" });
  const side = info.image_size;
  await run(new Uint8Array(side * side * 3)); // the first run is the slowest
  for (const button of [$("choose"), $("camera")]) button.disabled = false;
  if (!navigator.mediaDevices?.getUserMedia) $("camera").hidden = true;
  say("Ready.");
  await useFiles([]); // those that arrived in the meantime
}

/** Has the service worker cache the files of the runtime that this browser loaded. */
async function keepRuntime() {
  if (!navigator.serviceWorker) return;
  const taken = performance.getEntriesByType("resource").map((entry) => entry.name);
  const { active } = await navigator.serviceWorker.ready;
  active.postMessage([...new Set(taken.filter((name) => name.includes("/runtime/wasm/")))]);
}

function say(text) {
  $("status").textContent = text;
}

/** A softmax is never exactly 0 or 1, even after rounding. */
function probability(value) {
  if (value >= 0.9995) return ">\u00a099.9\u00a0%";
  return value < 0.0005 ? "<\u00a00.1\u00a0%" : `${(100 * value).toFixed(1)}\u00a0%`;
}

/** Returns the probabilities of one photo, and how long preparing and running took. */
async function classify(photo) {
  const began = performance.now();
  const scores = await run(prepare(photo, info.image_size, info.resize));
  return { scores, time: performance.now() - began };
}

async function run(pixels) {
  const whole = info.precision === "int8";
  const shape = [1, info.image_size, info.image_size, 3];
  const input = new Tensor(whole ? pixels : Float32Array.from(pixels), shape);
  const [output] = await model.run(input);
  const values = await output.data();
  const scores = Array.from(values, (value) => (whole ? value / 256 : value));
  input.delete();
  output.delete();
  return scores;
}

function show({ scores, time }) {
  const order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
  const rows = order.slice(0, TOP).map((i) => {
    const row = document.createElement("li");
    row.dataset.class = info.class_names[i];
    row.dataset.probability = scores[i];
    const name = Object.assign(document.createElement("span"), {
      className: "name", textContent: info.class_names[i],
    });
    const share = Object.assign(document.createElement("span"), {
      className: "share", textContent: probability(scores[i]),
    });
    const bar = Object.assign(document.createElement("div"), { className: "bar" });
    bar.setAttribute("aria-hidden", "true");
    const fill = document.createElement("span");
    fill.style.width = `${100 * scores[i]}%`;
    bar.append(fill);
    row.append(name, share, bar);
    return row;
  });
  $("results").replaceChildren(...rows);
  say(`${time.toFixed(0)} ms on this device.`);
}

/** Classifies photos one by one; each stays in the list, to be viewed again. */
async function useFiles(files) {
  waiting.push(...files);
  if (!waiting.length || !model || busy) return;
  closeCamera();
  busy = true;
  while (waiting.length) await useFile(waiting.shift());
  busy = false;
}

async function useFile(file) {
  const address = URL.createObjectURL(file);
  try {
    say("Looking …");
    const photo = await readPhoto(file);
    const answer = await classify(photo).finally(() => photo.bitmap.close());
    const look = () => {
      closeCamera();
      $("photo").src = address;
      $("photo").alt = `Your photo ${file.name}`;
      $("photo").hidden = false;
      $("hint").hidden = true;
      for (const button of document.querySelectorAll("#photos button")) {
        button.setAttribute("aria-pressed", String(button === own));
      }
      show(answer);
    };
    const own = listed(file.name, address, answer.scores, look);
    look();
  } catch (error) {
    URL.revokeObjectURL(address);
    $("results").replaceChildren();
    say(`${file.name} cannot be read as a photo: ${error.message}.`);
    console.warn(error);
  }
}

/** A button in the list of photos: thumbnail, file name, best class. */
function listed(name, address, scores, look) {
  const best = scores.indexOf(Math.max(...scores));
  const button = Object.assign(document.createElement("button"), { type: "button" });
  const image = Object.assign(document.createElement("img"), { src: address, alt: "" });
  const text = Object.assign(document.createElement("span"), {
    textContent: `${name}: ${info.class_names[best]}, ${probability(scores[best])}`,
  });
  button.append(image, text);
  button.addEventListener("click", look);
  const row = document.createElement("li");
  row.append(button);
  $("photos").prepend(row);
  while ($("photos").children.length > KEPT) {
    const last = $("photos").lastChild;
    URL.revokeObjectURL(last.querySelector("img").src);
    last.remove();
  }
  $("others").hidden = $("photos").children.length < 2;
  return button;
}

async function openCamera() {
  $("camera").disabled = true; // until the user answers the permission prompt
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
  } catch (error) {
    say(`The camera cannot be used (${error.name}).`);
    return;
  } finally {
    $("camera").disabled = false;
  }
  const own = stream;
  $("video").srcObject = stream;
  $("video").hidden = false;
  $("photo").hidden = true;
  $("hint").hidden = true;
  $("camera").textContent = "Close camera";
  $("camera").setAttribute("aria-pressed", "true");
  $("status").setAttribute("aria-live", "off"); // no announcement for every frame
  try {
    await $("video").play();
    while (stream === own) {
      const answer = await classify($("video"));
      if (stream !== own) return; // a photo was chosen in the meantime
      show(answer);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  } catch (error) {
    if (stream !== own) return; // closed before it played
    closeCamera();
    say(`The camera's picture cannot be classified (${error.message}).`);
    console.warn(error);
  }
}

function closeCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = undefined;
  $("video").srcObject = null;
  $("video").hidden = true;
  $("hint").hidden = false;
  $("camera").textContent = "Open camera";
  $("camera").setAttribute("aria-pressed", "false");
  $("status").setAttribute("aria-live", "polite");
}

$("file").addEventListener("change", (event) => {
  useFiles(event.target.files);
  event.target.value = ""; // the same photos may be chosen again
});
$("choose").addEventListener("click", () => $("file").click());
$("camera").addEventListener("click", () => (stream ? closeCamera() : openCamera()));
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => event.preventDefault());
}
$("drop").addEventListener("dragover", () => $("drop").classList.add("over"));
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  $("drop").classList.remove("over");
  useFiles(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => useFiles(event.clipboardData.files));

if ("serviceWorker" in navigator && window.isSecureContext) {
  navigator.serviceWorker.register("offline.js");
}
start().then(keepRuntime).catch((error) => {
  say(`The model cannot be started (${error.message}).`);
  console.error(error);
});
