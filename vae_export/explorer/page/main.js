// The page: it opens a bundle, shows the verdict of the self-test, and passes the model to the views.

import { showDecodeView } from "./decode-view.js";
import { showEncodeView } from "./encode-view.js";
import { showConditions } from "./conditions.js";
import { describeImage, takeFile } from "./images.js";
import { showInterpolation } from "./interpolate.js";
import { Latents, measureEffects, showSliders } from "./latents.js";
import { Model } from "./model.js";
import { showPad } from "./pad.js";
import { showSamples } from "./samples.js";
import { hideFailure, showFailure, showProgress, showSelfTest } from "./status.js";

const find = (id) => document.getElementById(id);
const backend = find("backend");

const FIRST_SAMPLE = 6; // the page starts with this latent of seed 0

let settings; // from the server: {bundle, engine}
let data; // the bundle's bytes
let views = new AbortController(); // removes the event listeners of the previous bundle

/**
 * The state that every view gets. Choosing another engine replaces `model` and fires "change" on `engineChanged`.
 *
 * @typedef {{model: Model, latents: Latents, effects: Float32Array, signal: AbortSignal, engineChanged: EventTarget}} Shown
 */
let shown = null;

let last = Promise.resolve();

/** Run changes of the model one at a time: a slow engine must not show the model of an earlier bundle. */
function inTurn(change) {
  last = last.then(change);
  return last;
}

async function openBundle(bytes) {
  document.body.dataset.state = "loading";
  hideFailure();
  showProgress("Checking the bundle …");
  const model = await Model.open(bytes, backend.value, settings.engine);
  data = bytes;
  views.abort();
  shown?.model.close();
  views = new AbortController();
  const latents = new Latents(model.size);
  const effects = model.hasCodes ? new Float32Array(0) : await measureEffects(model);
  shown = { model, latents, signal: views.signal, engineChanged: new EventTarget(), effects };
  describeBundle(model);
  showSelfTest(model);
  showConditions(shown);
  const drawing = showEncodeView(shown);
  find("sliders-card").hidden = model.hasCodes;
  document.querySelector(".pad-card").hidden = model.hasCodes || !model.contract.isImage;
  if (!model.hasCodes) showSliders(shown);
  if (!model.hasCodes && model.contract.isImage) showPad(shown);
  for (const show of [showDecodeView, showSamples]) show(shown);
  showInterpolation(shown, drawing);
  latents.replace(model.canDraw ? model.draw(1, 0n, FIRST_SAMPLE) : new Float32Array(model.size));
  document.body.dataset.state = "ready";
}

/** Open the same bundle on another engine and test it again. The latents and the drawing stay. */
async function changeEngine() {
  if (!shown || backend.value === shown.model.backend) return;
  backend.disabled = true;
  showProgress(`Testing ${backend.selectedOptions[0].text} …`);
  try {
    const model = await Model.open(data, backend.value, settings.engine);
    const before = shown.model;
    model.conditions = before.conditions;
    shown.model = model;
    showSelfTest(model);
    before.close();
    shown.engineChanged.dispatchEvent(new Event("change"));
    shown.latents.replace(shown.latents.values);
  } catch (error) {
    const failed = backend.selectedOptions[0].text;
    backend.value = shown.model.backend;
    const current = backend.selectedOptions[0].text;
    showSelfTest(shown.model);
    showFailure(`${failed} cannot run this model`, `${error.message}. The page still uses ${current}.`);
  }
  backend.disabled = false;
}

function describeBundle(model) {
  const { precision, contract, card, identity, size, parts } = model;
  const name = card.split("\n")[0].replace(/^#\s*/, "") || settings.bundle;
  const shapes = contract.latents.map(({ name, item }) => `${contract.latents.length > 1 ? `${name} ` : ""}${item.join(" × ")}`);
  const isPlain = contract.latents.length === 1 && contract.latents[0].item.length === 1;
  const shape = isPlain ? "" : ` (${shapes.join(", ")})`;
  const kind = model.hasCodes ? `codes of ${model.codes.toLocaleString("en")}` : "latents";
  const data = contract.isImage
    ? `${describeImage(contract)}, pixels in [${contract.image_range.join(", ")}]`
    : `${contract.output.name} (${contract.output.shape.slice(1).join(" × ")})`;
  find("name").textContent = document.title = name;
  const notes = [...(parts.includes("encoder") ? [] : ["no encoder"]), ...(precision === "fp32" ? [] : [`computed in ${precision}`])];
  const facts = `${size.toLocaleString("en")} ${kind}${shape} → ${data}`;
  find("facts").textContent = [facts, ...notes].join(" · ");
  find("decode-title").textContent = contract.isImage ? "Image" : capitalise(contract.output.name);
  document.body.classList.toggle("no-image", !contract.isImage);
  document.body.classList.toggle("no-sliders", model.hasCodes);
  const omitted = leftOut(model);
  find("left-out").textContent = omitted.length > 0 ? `Left out: ${omitted.join("; ")}.` : "";
  find("card").textContent = card;
  find("identity").textContent = identity.slice(0, 16);
  find("identity").title = identity;
}

const capitalise = (text) => text[0].toUpperCase() + text.slice(1);

/** Return what the page does not show of this bundle, and why. */
function leftOut({ contract, parts, hasCodes, canDraw, sizes }) {
  const isShown = contract.isImage && contract.isSameData;
  const open = Object.keys(sizes);
  return [
    ...(contract.isImage ? [] : ["pictures, because the data is no image of 1 to 4 channels; it is listed as numbers"]),
    ...(parts.includes("encoder") && contract.isImage && !isShown ? ["reconstructions, because the decoder gives other data than the encoder takes"] : []),
    ...(hasCodes ? ["sliders and interpolation, because there is nothing between codes"] : []),
    ...(canDraw ? [] : ["random samples, because the prior of the latents is not in the bundle"]),
    ...(open.length > 0 ? [`other sizes than ${open.map((name) => `${name} = ${sizes[name]}`).join(", ")}`] : []),
  ];
}

/** Show why a bundle was refused, and remove everything of it and of the previous one from the page. */
function fail(error) {
  views.abort();
  shown?.model.close();
  shown = null;
  for (const canvas of document.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
  find("name").textContent = document.title = "Explorer";
  for (const id of ["facts", "left-out", "card", "identity"]) find(id).textContent = "";
  document.body.dataset.state = "failed";
  showFailure("This bundle cannot be shown", error.message);
}

async function fetchFrom(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`cannot fetch ${path}: ${response.status} ${response.statusText}`);
  return response;
}

async function offerWebGPU() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const option = backend.querySelector("[value=webgpu]");
  option.disabled = !adapter;
  if (!adapter) option.text = "WebGPU (no adapter)";
}

async function start() {
  settings = await (await fetchFrom("settings.json")).json();
  settings.engine = new URL(settings.engine, location.href).href;
  await Promise.all([openBundle(await (await fetchFrom("bundle.zip")).arrayBuffer()), offerWebGPU()]);
  backend.disabled = false;
}

const isBundle = (file) => /\.zip$/i.test(file.name);
const isPicture = (file) => file.type.startsWith("image/");

/** Answer files that were dropped or pasted, unless the encoder's card takes an image among them. */
function refuseUnlessTaken(files) {
  const picture = files.find(isPicture);
  if (picture && shown?.model.canEncode) return;
  const name = (picture ?? files[0])?.name;
  const reason = shown ? "this bundle has no encoder for images" : "no bundle is open that could encode it";
  const what = picture ? `${name} cannot be encoded: ${reason}.` : `${name} is neither a bundle (.zip) nor an image.`;
  showFailure("This file cannot be used", files.length > 0 ? what : "Only files can be dropped here.");
}

function openFile(file) {
  inTurn(async () => openBundle(await file.arrayBuffer()).catch(fail));
}

find("bundle-file").addEventListener("change", ({ target }) => takeFile(target, openFile));
backend.addEventListener("change", () => inTurn(changeEngine));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const files = [...event.dataTransfer.files];
  const file = files.find(isBundle);
  if (file) openFile(file);
  else refuseUnlessTaken(files);
});
document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData?.files.length > 0) refuseUnlessTaken([...clipboardData.files]);
});
// An error message stays until the user does something else.
for (const event of ["change", "drop", "paste"]) document.addEventListener(event, hideFailure, { capture: true });
window.addEventListener("unhandledrejection", (event) => {
  event.preventDefault(); // the page shows it, not the console
  showFailure("Something went wrong", event.reason?.message ?? String(event.reason));
});

inTurn(() => start().catch(fail));
