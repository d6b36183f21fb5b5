import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { readPhoto } from "./photo.js";
import { prepare } from "./preparation.js";

const $ = (id) => document.getElementById(id);
const TOP = 5;
let info, model, stream;
let busy = false;

async function start() {
  info = await (await fetch("classifier.json")).json();
  $("about").textContent =
    `Tells ${info.class_names.length} classes apart. Photos stay on this device.`;
  $("footer").textContent =
    `${info.backbone}, ${info.image_size} px, ${info.precision}` +
    (info.accuracy ? `, ${(100 * info.accuracy.top1).toFixed(1)} % right on ${info.accuracy.of}` : "") +
    (info.license ? `, ${info.license}` : "");
  await loadLiteRt(new URL("runtime/wasm/", location.href).href);
  model = await loadAndCompile("model.tflite", { accelerator: "wasm" });
  for (const button of [$("choose"), $("camera")]) button.disabled = false;
  if (!navigator.mediaDevices?.getUserMedia) $("camera").hidden = true;
  say("Ready.");
}

function say(text) {
  $("status").textContent = text;
}

/** A softmax is never quite 0 or 1, whatever rounding makes of it. */
function probability(value) {
  if (value >= 0.9995) return "> 99.9 %";
  return value < 0.0005 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`;
}

/** Probabilities of one photo, and how long preparing and running took. */
async function classify(photo) {
  const began = performance.now();
  const pixels = prepare(photo, info.image_size, info.resize);
  const whole = info.precision === "int8";
  const shape = [1, info.image_size, info.image_size, 3];
  const input = new Tensor(whole ? pixels : Float32Array.from(pixels), shape);
  const [output] = await model.run(input);
  const values = await output.data();
  const scores = Array.from(values, (value) => (whole ? value / 256 : value));
  input.delete();
  output.delete();
  return { scores, time: performance.now() - began };
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

async function useFile(file) {
  if (!file || !model || busy) return;
  closeCamera();
  busy = true;
  const address = URL.createObjectURL(file);
  try {
    say("Looking …");
    const photo = await readPhoto(file);
    if ($("photo").src.startsWith("blob:")) URL.revokeObjectURL($("photo").src);
    $("photo").src = address;
    $("photo").alt = `Your photo ${file.name}`;
    $("photo").hidden = false;
    $("hint").hidden = true;
    show(await classify(photo));
  } catch (error) {
    URL.revokeObjectURL(address);
    $("results").replaceChildren();
    say(`${file.name} cannot be read as a photo: ${error.message}.`);
    console.warn(error);
  } finally {
    busy = false;
  }
}

async function openCamera() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment" },
    });
  } catch (error) {
    say(`The camera cannot be used (${error.name}).`);
    return;
  }
  $("video").srcObject = stream;
  $("video").hidden = false;
  $("photo").hidden = true;
  $("hint").hidden = true;
  $("camera").textContent = "Close the camera";
  $("camera").setAttribute("aria-pressed", "true");
  await $("video").play();
  $("status").setAttribute("aria-live", "off"); // not a word for every frame
  while (stream) {
    show(await classify($("video")));
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function closeCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = undefined;
  $("video").srcObject = null;
  $("video").hidden = true;
  $("hint").hidden = false;
  $("camera").textContent = "Open the camera";
  $("camera").setAttribute("aria-pressed", "false");
  $("status").setAttribute("aria-live", "polite");
}

$("file").addEventListener("change", (event) => {
  useFile(event.target.files[0]);
  event.target.value = ""; // the same photo may come again
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
  useFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => useFile(event.clipboardData.files[0]));

if ("serviceWorker" in navigator && window.isSecureContext) {
  navigator.serviceWorker.register("offline.js");
}
start().catch((error) => {
  say(`The model cannot be started (${error.message}).`);
  console.error(error);
});
