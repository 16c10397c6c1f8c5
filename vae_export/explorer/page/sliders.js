// One slider a latent.

import { SHOWN } from "./effects.js";

const REACH = 4; // the prior rarely goes further; a latent that does is shown at the end, with its true number
const INERT = 0.02; // of the strongest effect: hardly to be seen

export function showSliders({ model, latent, effects, signal }) {
  const box = document.getElementById("sliders");
  const most = Math.max(...effects);
  const sliders = Array.from({ length: Math.min(model.size, SHOWN) }, (_, index) => slider(index, effects[index] < INERT * most));
  box.replaceChildren(...sliders.map(({ row }) => row));
  document.getElementById("sliders-note").textContent =
    model.size > SHOWN ? `The first ${SHOWN} of ${model.size.toLocaleString("en")} latents; samples and images move all of them.` : "";

  box.addEventListener("input", ({ target }) => latent.set({ [target.dataset.index]: Number(target.value) }), { signal });
  box.addEventListener("dblclick", ({ target }) => {
    const index = target.closest(".slider")?.querySelector("input").dataset.index;
    if (index !== undefined) latent.set({ [index]: 0 });
  }, { signal });
  latent.addEventListener("change", () => sliders.forEach(({ show }, index) => show(latent.values[index])), { signal });
}

function slider(index, inert) {
  const row = document.createElement("label");
  row.className = inert ? "slider inert" : "slider";
  const name = Object.assign(document.createElement("span"), { className: "index", textContent: `z${index}` });
  const input = Object.assign(document.createElement("input"), { type: "range", min: -REACH, max: REACH, step: "any", value: 0 });
  input.dataset.index = index;
  const output = document.createElement("output");
  row.title = inert ? "hardly changes the image; double click: 0" : "double click: 0";
  row.append(name, input, output);
  const show = (value) => {
    input.value = value;
    input.style.setProperty("--at", `${50 + (50 * Math.max(-REACH, Math.min(REACH, value))) / REACH}%`);
    output.textContent = number(value);
  };
  return { row, show };
}

const number = (value) => (Math.abs(value) < 0.005 ? "0.00" : value.toFixed(2).replace("-", "−"));
