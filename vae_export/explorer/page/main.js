// The page: opens the bundle, shows whether it computes the right pixels, and gives the model to the views.

import { onnxFile } from "./bundle.js";
import { Latent } from "./latent.js";
import { Model } from "./model.js";
import { describe, takeFile } from "./image.js";
import { showEncode } from "./encode.js";
import { showNow } from "./now.js";
import { showPad } from "./pad.js";
import { showSamples } from "./samples.js";
import { showSliders } from "./sliders.js";
import { hideFailure, showFailure, showSelfTest, showSpeed, showWorking } from "./status.js";
import { showWay } from "./way.js";
import { measureEffects } from "./effects.js";
import { sample } from "./noise.js";

const find = (id) => document.getElementById(id);
const backend = find("backend");

const FIRST = 6; // of the random latents of seed 0: what the page starts with

let settings; // of the server: {bundle, engine}
let data; // of the bundle
let views = new AbortController(); // ends the listeners of the bundle that was shown before

/**
 * What every view gets; `model` is replaced when another engine is chosen, and `renewed` is told so.
 *
 * @typedef {{model: Model, latent: Latent, effects: Float32Array, signal: AbortSignal, renewed: EventTarget}} Shown
 */
let shown = null;

let last = Promise.resolve();

/** One change of model after the other: an engine that starts slowly must not put an old bundle's model under a new page. */
function inTurn(change) {
  last = last.then(change);
  return last;
}

async function openBundle(bytes) {
  document.body.dataset.state = "loading";
  hideFailure();
  showWorking("Checking the bundle …");
  const model = await Model.open(bytes, backend.value, settings.engine);
  data = bytes;
  views.abort();
  shown?.model.close();
  views = new AbortController();
  const latent = new Latent(model.size);
  shown = { model, latent, signal: views.signal, renewed: new EventTarget(), effects: await measureEffects(model) };
  describeBundle(model);
  showSelfTest(model);
  const encode = showEncode(shown);
  for (const show of [showSliders, showPad, showNow, showSamples]) show(shown);
  showWay(shown, encode);
  latent.replace(sample(1, model.size, 0n, FIRST));
  document.body.dataset.state = "ready";
}

/** The same bundle on another engine: the latents and drawings stay, and the self-test is done again. */
async function changeEngine() {
  if (!shown || backend.value === shown.model.backend) return;
  backend.disabled = true;
  showWorking(`Checking what ${backend.selectedOptions[0].text} computes …`);
  try {
    const model = await Model.open(data, backend.value, settings.engine);
    const before = shown.model;
    shown.model = model;
    showSelfTest(model);
    before.close();
    shown.renewed.dispatchEvent(new Event("renewed"));
    shown.latent.replace(shown.latent.values);
  } catch (error) {
    const wanted = backend.selectedOptions[0].text;
    backend.value = shown.model.backend;
    showSelfTest(shown.model);
    showFailure(`${wanted} cannot run this model`, `${error.message}. Everything below still runs on ${backend.selectedOptions[0].text}.`);
  }
  backend.disabled = false;
}

function describeBundle({ manifest, contract, card, identity, size, canEncode }) {
  const name = card.split("\n")[0].replace(/^#\s*/, "") || settings.bundle;
  const [low, high] = contract.image_range;
  const shape = contract.latent_shape.length > 1 ? ` (${contract.latent_shape.join(" × ")})` : "";
  find("name").textContent = document.title = name;
  const { precision = "fp32" } = onnxFile(manifest, "decoder");
  const notes = [...(canEncode ? [] : ["a decoder alone"]), ...(precision === "fp32" ? [] : [`computed in ${precision}`])];
  const facts = `${size.toLocaleString("en")} latents${shape} → ${describe(contract)}, pixels in [${low}, ${high}]`;
  find("facts").textContent = [facts, ...notes].join(" · ");
  find("card").textContent = card;
  find("identity").textContent = identity.slice(0, 16);
  find("identity").title = identity;
}

/** Nothing of a bundle that was refused, or of the one before it, stays on the page. */
function fail(error) {
  views.abort();
  shown?.model.close();
  shown = null;
  for (const canvas of document.querySelectorAll("canvas")) canvas.width = canvas.height = 0;
  find("name").textContent = document.title = "Explorer";
  for (const id of ["facts", "card", "identity"]) find(id).textContent = "";
  document.body.dataset.state = "failed";
  showFailure("This bundle is not shown", error.message);
}

async function fetchFrom(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path} cannot be fetched: ${response.status} ${response.statusText}`);
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
  const [file] = event.dataTransfer.files;
  if (file && isBundle(file)) openFile(file);
});
// What went wrong before is said until something else is tried.
for (const event of ["change", "drop", "paste"]) document.addEventListener(event, hideFailure, { capture: true });
window.addEventListener("unhandledrejection", (event) => {
  event.preventDefault(); // it is said here, not in the console
  showFailure("Something went wrong", event.reason?.message ?? String(event.reason));
});

inTurn(() => start().catch(fail));
